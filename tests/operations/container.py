"""The container file: hadolint's rules, and what every image of hapax must be. `make container` builds and tries it."""

import re
import subprocess
import tempfile
import unittest
from pathlib import Path

from common import DEPLOY, HAPAX, TOOLS, main, run

FILE = DEPLOY / "container/Containerfile"
HADOLINT = TOOLS / "venv/bin/hadolint"


def instructions():
    text = re.sub(r"^\s*#.*\n", "", FILE.read_text(), flags=re.M).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


class Container(unittest.TestCase):
    def test_hadolint_finds_nothing_wrong_and_would_find_something(self):
        run(HADOLINT, "--failure-threshold", "style", FILE)
        with tempfile.TemporaryDirectory() as folder:
            broken = Path(folder) / "Containerfile"
            broken.write_text(FILE.read_text().replace(" --no-install-recommends", "") + "CMD hapax run\n")
            self.assertRegex(run(HADOLINT, broken, ok=False), r"DL3015(.|\n)*DL3025|DL3025(.|\n)*DL3015")

    def test_the_last_stage_runs_one_program_as_a_user_that_is_not_root(self):
        words = instructions()
        last = words[[number for number, (word, _) in enumerate(words) if word == "FROM"][-1] :]
        found = dict(last)
        self.assertEqual(found["USER"], "65532:65532")
        self.assertEqual(found["ENTRYPOINT"], '["/usr/bin/hapax"]')
        self.assertEqual(found["CMD"], '["run"]')
        self.assertIn('CMD ["/usr/bin/hapax", "healthcheck"]', found["HEALTHCHECK"])
        self.assertNotIn("RUN", found, "there is no shell")
        self.assertNotIn("ENV", found, "the environment outranks hapax.toml")
        self.assertEqual(
            [rest for word, rest in last if word == "COPY"],
            ["--from=binary --chown=0:0 --chmod=0755 /hapax /usr/bin/hapax"],
        )

    def test_it_compiles_with_the_toolchain_of_the_workspace_on_the_release_that_it_runs_on(self):
        version = re.search(r'^rust-version = "([\d.]+)"', (DEPLOY.parent / "Cargo.toml").read_text(), re.M)[1]
        text = FILE.read_text()
        self.assertIn(f"rust:{version}-bookworm", text)
        self.assertIn("distroless/cc-debian12:nonroot", text)
        self.assertIn("--locked", text)

    @unittest.skipUnless(HAPAX, "HAPAX_BIN names no binary")
    def test_the_program_needs_no_library_that_the_image_lacks(self):
        said = subprocess.run(["ldd", HAPAX], capture_output=True, text=True, check=True).stdout
        needed = set(re.findall(r"^\s*(?:/\S*/)?([\w.-]+\.so[.\d]*)", said, re.M))
        self.assertLessEqual(
            needed, {"linux-vdso.so.1", "libgcc_s.so.1", "libm.so.6", "libc.so.6", "ld-linux-x86-64.so.2"}
        )
        self.assertIn("libc.so.6", needed)


if __name__ == "__main__":
    main()
