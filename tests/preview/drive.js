// drive.js PAGE TEMPLATES TRAP SCREENSHOTS: looks at the preview page in a headless Chromium as people do, edits templates
// in TEMPLATES, and prints the name of each check that held. Ends with 1 at the first that did not.
// TRAP is the address of a server that must never be asked for anything.
import assert from "node:assert/strict";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { createRequire } from "node:module";

const puppeteer = createRequire(new URL("../../target/preview/", import.meta.url))("puppeteer-core");
const [address, templates, trap, shots] = process.argv.slice(2);
const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--headless=new", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking"],
  defaultViewport: { width: 1360, height: 860 },
});
const page = await browser.newPage();
const complaints = [];
page.on("pageerror", (error) => complaints.push(String(error)));

const text = (selector) => page.$eval(selector, (found) => found.innerText);
const visible = (selector) => page.$eval(selector, (found) => found.offsetParent !== null);
const until = (condition, ...args) => page.waitForFunction(condition, { timeout: 20000, polling: 50 }, ...args);
const shot = (name) => page.screenshot({ path: `${shots}/${name}.png` });

// What the frame shows. It runs no scripts, so its document is read from outside.
async function frameText() {
  const frame = page.frames().find((one) => one.url().includes("/shown/"));
  if (!frame) return "";
  return await frame.evaluate(() => document.body.innerText);
}

async function frameHas(words) {
  const ends = Date.now() + 20000;
  let last;
  do {
    last = await frameText().catch(String);
    if (last.includes(words)) return;
    await new Promise((go) => setTimeout(go, 50));
  } while (Date.now() < ends);
  assert.fail(`the frame does not show ${words}: ${last}`);
}

async function view(number) {
  await page.keyboard.press(String(number));
  await until(() => !document.querySelector("#frames .coming"));
}

async function kind(name) {
  await page.click(`#kinds button[data-kind="${name}"]`);
  await until((name) => location.hash.includes(`kind=${name}`), name);
}

async function edit(file, from, to) {
  const path = `${templates}/${file}`;
  const before = await readFile(path, "utf8");
  assert.ok(before.includes(from), `${file} has ${from}`);
  await writeFile(path, before.replace(from, to));
  return () => writeFile(path, before);
}

function ask(method, headers, body) {
  const { hostname, port } = new URL(address);
  return new Promise((done, failed) => {
    const sent = request({ hostname, port, method, path: body ? "/api/render" : "/", headers }, (reply) => {
      reply.resume();
      done(reply.statusCode);
    });
    sent.on("error", failed).end(body);
  });
}

const checks = {
  async the_page_lists_every_kind_and_shows_the_first() {
    await page.goto(address);
    await until(() => document.querySelector("#subject").innerText.includes("JO-20417"));
    const names = await page.$$eval("#kinds .name", (found) => found.map((one) => one.innerText));
    assert.deepEqual(names, ["order_confirmed", "password_reset"]);
    await until(() => document.querySelector("#live").dataset.state === "on");
    await page.evaluate(() => (window.marker = "still the same page"));
  },
  async desktop_shows_the_message_as_tall_as_it_is() {
    await frameHas("Thank you, Ada");
    await until(() => document.querySelector("#frames").style.height !== "600px");
    const height = await page.$eval("#frames", (frames) => frames.clientHeight);
    assert.ok(height > 500 && height < 1200, `${height} pixels`);
    const frame = page.frames().find((one) => one.url().includes("/shown/"));
    assert.equal(await frame.evaluate(() => document.querySelector("img").naturalWidth), 296, "the logo came along");
    assert.match(await text("#attached"), /logo\.png\s+inline image\/png/);
    assert.match(await text("#sizes"), /HTML .* KB · text .* · message/);
    await shot("desktop");
  },
  async mobile_is_as_wide_as_a_phone() {
    await view(2);
    assert.equal(await page.$eval("#frames iframe", (frame) => frame.clientWidth), 375);
    await frameHas("Thank you, Ada");
    await shot("mobile");
  },
  async dark_applies_the_rules_of_the_message() {
    await view(3);
    await frameHas("Thank you, Ada");
    assert.match(await text("#hint"), /own rules for dark readers/);
    const frame = page.frames().find((one) => one.url().includes("dark=true"));
    const colour = await frame.evaluate(() => getComputedStyle(document.querySelector(".card")).backgroundColor);
    assert.equal(colour, "rgb(33, 36, 40)");
    await shot("dark");
  },
  async text_source_and_headers_show_what_is_sent() {
    await view(4);
    assert.match(await text("#plain"), /^Thank you, Ada\n/);
    await shot("text");
    await view(5);
    assert.match(await text("#plain"), /Content-Type: multipart\/alternative/);
    await shot("source");
    await view(6);
    const rows = await page.$$eval("#headers tr", (found) => found.map((row) => row.innerText));
    assert.ok(rows.some((row) => /^Subject\s+Thank you for order JO-20417$/.test(row)), rows.join("\n"));
    await shot("headers");
    await view(1);
  },
  async another_sample_is_shown() {
    await page.select("#sample", "long");
    await frameHas("Walnut & brass <pepper> mill");
    await shot("long");
  },
  async another_locale_is_shown() {
    await page.select("#locale", "de");
    await frameHas("Danke, Maximiliane-Friederike");
    await frameHas("1.549,00");
    await until(() => document.querySelector("#subject").innerText.startsWith("Danke für Ihre Bestellung"));
    await shot("german");
    await page.select("#locale", "");
    await frameHas("Thank you, Maximiliane-Friederike");
  },
  async an_edit_appears_without_a_reload_and_keeps_the_place() {
    await page.$eval("#stage", (stage) => (stage.scrollTop = 150));
    await edit("order_confirmed/body.html", "and pack it today. It leaves", "and wrap it with care. It leaves");
    await frameHas("and wrap it with care");
    await until(() => !document.querySelector("#frames .coming"));
    assert.equal(await page.$eval("#stage", (stage) => stage.scrollTop), 150);
    assert.equal(await page.evaluate(() => window.marker), "still the same page");
    assert.equal(await page.$eval("#sample", (select) => select.value), "long");
  },
  async an_error_is_shown_with_file_line_and_source_and_goes_away() {
    const mend = await edit("order_confirmed/body.html", "<b>{{ order_id }}</b>", "<b>{{ order_id </b>");
    await until(() => document.querySelector(".error"));
    assert.match(await text(".error .where"), /^order_confirmed\/body\.html:\d+$/);
    assert.ok((await text(".error li.here")).length > 3);
    assert.ok(await visible('#kinds button[data-kind="order_confirmed"] .bad'));
    assert.ok(!(await page.$('#kinds button[data-kind="password_reset"] .bad')));
    await shot("error");
    await kind("password_reset");
    await frameHas("Set a new password");
    await mend();
    await until(() => !document.querySelector("#kinds .bad"));
    await kind("order_confirmed");
    await frameHas("Thank you, Ada");
    assert.ok(!(await visible("#errors").catch(() => false)));
    assert.equal(await page.evaluate(() => window.marker), "still the same page");
  },
  async an_undefined_key_is_named_with_its_line() {
    const mend = await edit("order_confirmed/body.html", "customer.first_name", "customer.nickname");
    await until(() => document.querySelector(".error .what")?.innerText.includes("nickname"));
    const line = await text(".error li.here");
    assert.ok(line.includes("customer.nickname"), line);
    await shot("undefined");
    await mend();
    await frameHas("Thank you, Ada");
  },
  async a_payload_that_is_typed_is_rendered_and_not_saved() {
    const before = await readFile(`${templates}/order_confirmed/sample.json`, "utf8");
    await page.keyboard.press("p");
    await page.$eval("#payload", (area) => {
      area.value = area.value.replace('"Ada"', '"Grace"');
      area.dispatchEvent(new Event("input"));
    });
    await frameHas("Thank you, Grace");
    await shot("payload");
    assert.equal(await readFile(`${templates}/order_confirmed/sample.json`, "utf8"), before);
    await page.click("#payload-reset");
    await frameHas("Thank you, Ada");
    await page.$eval("#payload", (area) => area.blur());
    await page.keyboard.press("p");
  },
  async nothing_remote_is_asked_for_and_no_script_runs() {
    const attack = `<img src="${trap}/a.png"><link rel="stylesheet" href="${trap}/b.css"><link rel=preconnect href="${trap}">
      <style>@import url(${trap}/c.css); .page { background: url(${trap}/d.png) }</style><iframe src="${trap}/e"></iframe>
      <script>parent.postMessage("ran", "*"); fetch("${trap}/f")</script><img src=x onerror="fetch('${trap}/g')">
      <meta http-equiv="refresh" content="0;url=${trap}/h"><object data="${trap}/i"></object>
      <a id="away" href="${trap}/j" style="display:block">away</a><video src="${trap}/k" poster="${trap}/l"></video>`;
    await page.evaluate(() => addEventListener("message", () => (window.scripted = true)));
    await edit("password_reset/body.html", "{% block content %}", `{% block content %}${attack}<b>attacked</b>`);
    await kind("password_reset");
    await frameHas("attacked");
    const frame = page.frames().find((one) => one.url().includes("/shown/"));
    const link = await frame.$("#away");
    await link.evaluate((found) => found.click()).catch(() => null);
    await page.mouse.click(600, 400);
    await frameHas("attacked");
    assert.equal(await page.evaluate(() => window.scripted), undefined);
    assert.ok(Number(await text("#blocked-count")) >= 8, await text("#blocked-count"));
    const advice = await text("#advice");
    for (const words of ["1 script", "external style sheet", "event handler", "without alt"]) {
      assert.ok(advice.includes(words), `${words}: ${advice}`);
    }
    await page.keyboard.press("4");
    await page.keyboard.press("1");
    await shot("attacked");
  },
  async keys_move_through_kinds_and_views() {
    await page.keyboard.press("ArrowUp");
    await until(() => location.hash.includes("kind=order_confirmed"));
    await page.keyboard.press("ArrowDown");
    await until(() => location.hash.includes("kind=password_reset"));
    await page.keyboard.press("6");
    await until(() => location.hash.includes("view=headers"));
    await page.keyboard.press("1");
    await page.keyboard.press("ArrowUp");
  },
  async it_fits_into_900_pixels_and_a_dark_system() {
    await page.setViewport({ width: 900, height: 760 });
    await frameHas("Thank you, Ada");
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.equal(overflow, 0);
    await shot("narrow");
    await page.setViewport({ width: 1360, height: 860 });
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
    await shot("dark-system");
    const frame = page.frames().find((one) => one.url().includes("/shown/"));
    const colour = await frame.evaluate(() => getComputedStyle(document.querySelector(".card")).backgroundColor);
    assert.equal(colour, "rgb(255, 255, 255)", "the desktop view is that of a light reader");
  },
  async other_hosts_and_other_sites_are_refused() {
    const { host } = new URL(address);
    assert.equal(await ask("GET", { host }), 200);
    assert.equal(await ask("GET", { host: "evil.example" }), 403);
    assert.equal(await ask("GET", { host: `evil.example:${new URL(address).port}` }), 403);
    const body = '{"kind":"password_reset"}';
    const json = { host, "content-type": "application/json" };
    assert.equal(await ask("POST", json, body), 200);
    assert.equal(await ask("POST", { ...json, origin: `http://${host}` }, body), 200);
    assert.equal(await ask("POST", { ...json, origin: "http://evil.example" }, body), 403);
    assert.equal(await ask("POST", { ...json, "sec-fetch-site": "cross-site" }, body), 403);
    assert.equal(await ask("POST", { host, "content-type": "text/plain" }, body), 415);
  },
  async the_page_itself_had_nothing_to_complain_about() {
    assert.deepEqual(complaints, []);
    // So that what was not asked for could have been asked for.
    const other = await browser.newPage();
    await other.goto(`${trap}/control`);
    await other.close();
    assert.equal(await page.evaluate(() => window.marker), "still the same page");
  },
};

await mkdir(shots, { recursive: true });
let failed = false;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok ${name}`);
  } catch (error) {
    console.log(`FAILED ${name}: ${error.stack}`);
    await shot("failed").catch(() => null);
    failed = true;
    break;
  }
}
await browser.close();
process.exitCode = failed ? 1 : 0;
