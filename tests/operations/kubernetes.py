"""Chart and manifests: rendered by helm 3 and helm 4, held against the published schemas, and by hapax itself."""

import importlib.util
import json
import os
import re
import tempfile
import tomllib
import unittest
from pathlib import Path

import yaml
from common import DEPLOY, HAPAX, TOOLS, main, run
from manifests import FEW, VERSIONS, dangling, insecure, pods, valid

CHART = DEPLOY / "helm/hapax"
PLAIN = DEPLOY / "kubernetes"
HELMS = [TOOLS / "helm3", TOOLS / "helm4"]

DATABASE = "postgres://hapax@db.internal/shop?sslmode=verify-full"
ROUTE = {"url": "smtps://hapax@smtp.example.com", "from": 'Shop "24/7" <no-reply@example.com>'}
MINIMAL = {"config": {"database": {"url": DATABASE}, "routes": {"default": ROUTE}}}


def having(path, value, base=MINIMAL):
    """A copy of the values in which the key at a dotted path has another value."""
    copy = json.loads(json.dumps(base))
    *way, last = path.split(".")
    inner = copy
    for key in way:
        inner = inner.setdefault(key, {})
    inner[last] = value
    return copy


EVERYTHING = {
    "replicaCount": 3,
    "image": {"repository": "registry.example.com/hapax", "tag": "1.2.3", "digest": "sha256:" + "0" * 64},
    "imagePullSecrets": [{"name": "registry"}],
    "nameOverride": "relay",
    "fullnameOverride": "hapax-mail",
    "commonLabels": {"team": "mail"},
    "podLabels": {"sidecar": "no"},
    "podAnnotations": {"note": "yes"},
    "config": {
        "database": {"url": DATABASE, "pool_size_max": 12, "after_failover": "hold"},
        "relay": {"max_in_flight": 128, "final_reply_timeout": "12m", "wake_up": False},
        "retry": {"factor": 2.5, "cap": "6h"},
        "guards": {"recipients_allow": ["@example.org", "qa@example.com"]},
        "dkim": {"shop": {"domain": "example.com", "selector": "a", "private_key_file": "/run/secrets/hapax/dkim.pem"}},
        "routes": {"default": ROUTE, "bulk mail": {**ROUTE, "dkim": [], "max_connections": 4}},
        "kinds": {"password_reset": {"priority": "urgent", "expires_after": "15m"}},
        "log": {"level": "info"},
    },
    "secrets": {"name": "hapax"},
    "secretsVersion": "7",
    "templatesVolume": {"configMap": {"name": "mail-templates"}},
    "extraEnv": [{"name": "TZ", "value": "UTC"}],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/hapax/ca"}],
    "http": {"address": "[::]", "port": 9999},
    "serviceAccount": {"annotations": {"a": "b"}},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "mail", "operator": "Exists"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "arch", "operator": "In", "values": ["amd64"]}]}]
            }
        }
    },
    "priorityClassName": "high",
    "migrations": {"enabled": True, "databaseUrl": "postgres://owner@db.internal/shop", "secretName": "hapax-owner"},
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "networkPolicy": {
        "enabled": True,
        "metricsFrom": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}],
        "dns": {"to": [{"namespaceSelector": {}}]},
        "database": {"to": [{"ipBlock": {"cidr": "192.0.2.1/32"}}], "ports": [5432, 6432]},
        "extraEgress": [{"ports": [{"protocol": "TCP", "port": 443}]}],
    },
    "keda": {"enabled": True, "secretName": "hapax-monitor"},
}

VARIANTS = {
    "minimal": MINIMAL,
    "everything": EVERYTHING,
    "nothing that can be left out": having("podDisruptionBudget.enabled", False, having("topologySpread.enabled", False,
        having("serviceAccount", {"create": False, "name": "given"}))),
    "migrations as a plain job": having("migrations", {"enabled": True, "hook": False, "databaseUrl": DATABASE}),
    "nobody reads metrics": having("networkPolicy.enabled", True),
    "url in the environment": having("extraEnv", [{"name": "HAPAX__DATABASE__URL", "value": DATABASE}],
        having("config.database", {})),
}  # fmt: skip

# What is refused, and a word of why.
BAD = [
    ("replicaCount", 0, "replicaCount"),
    ("replicas", 2, "replicas"),
    ("image.pullPolicy", "Sometimes", "pullPolicy"),
    ("image.digest", "latest", "digest"),
    ("config.database", {"url": "postgres://relay:secret@db/shop"}, "url"),
    ("config.database", {"url": DATABASE, "password": "secret"}, "database"),
    ("config.routes.default", {**ROUTE, "url": "smtps://me:secret@smtp.example.com"}, "url"),
    ("config.routes.default", {**ROUTE, "password": "secret"}, "default"),
    ("config.database", {}, "config.database.url is missing"),
    ("config.routes", {}, "config.routes is empty"),
    ("config.rowtes", {"default": ROUTE}, "rowtes"),
    ("config.http", {"listen": "127.0.0.1:1"}, "http"),
    ("config.relay", {"final_reply_timeout": "10 minutes"}, "final_reply_timeout"),
    ("config.relay", {"final_reply_timeout": "12m", "shutdown_grace": "11m"}, "would leave mail in doubt"),
    ("http.port", 80, "port"),
    ("terminationMarginSeconds", 0, "terminationMarginSeconds"),
    ("keda", {"enabled": True}, "secretName"),
    ("keda", {"enabled": True, "secretName": "a", "minReplicas": 0}, "minReplicas"),
    ("migrations.enabled", True, "databaseUrl"),
    ("networkPolicy", {"smtp": {"ports": []}}, "ports"),
    ("podDisruptionBudget", {"maxUnavailable": 0}, "maxUnavailable"),
    ("secrets", {"name": "Not A Name"}, "name"),
    ("topologySpread", {"whenUnsatisfiable": "Maybe"}, "whenUnsatisfiable"),
]


def rendered(helm, values, ok=True, release="hapax"):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values, file)
        file.flush()
        return run(helm, "template", release, CHART, "-n", "mail", "--kube-version", "1.31.0", "-f", file.name, ok=ok)


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def configuration(found):
    [config] = [document for document in found if document["kind"] == "ConfigMap"]
    return config["data"]["hapax.toml"]


class Chart(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.texts = {name: rendered(HELMS[-1], values) for name, values in VARIANTS.items()}
        cls.all = {name: documents(text) for name, text in cls.texts.items()}

    def test_helm_3_and_helm_4_render_the_same(self):
        for name in ("minimal", "everything"):
            self.assertEqual(rendered(HELMS[0], VARIANTS[name]), self.texts[name], name)

    def test_helm_lint_finds_nothing(self):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(EVERYTHING, file)
            file.flush()
            for helm in HELMS:
                self.assertIn("0 chart(s) failed", run(helm, "lint", "--strict", CHART, "-f", file.name))

    def test_every_object_fits_the_published_schemas_of_every_version_of_kubernetes(self):
        self.assertGreaterEqual(len(VERSIONS), 11)
        looked = 0
        for name, found in self.all.items():
            versions = VERSIONS if name == "everything" else FEW
            looked += sum(valid(document, versions) for document in found)
        print(f"{looked} validations, Kubernetes {VERSIONS[0]} to {VERSIONS[-1]}")
        self.assertGreater(looked, 100)
        broken = having("spec.revisionHistoryLimitt", 3, self.all["minimal"][-1])
        with self.assertRaises(Exception):
            valid(broken, FEW)

    def test_everything_on_makes_every_kind_and_minimal_only_what_is_needed(self):
        def kinds(name):
            return sorted(document["kind"] for document in self.all[name])

        needed = ["ConfigMap", "Deployment", "PodDisruptionBudget", "ServiceAccount"]
        self.assertEqual(kinds("minimal"), needed)
        more = ["Job", "NetworkPolicy", "PodMonitor", "PrometheusRule", "ScaledObject", "TriggerAuthentication"]
        self.assertEqual(kinds("everything"), sorted(needed + more))
        self.assertEqual(kinds("nothing that can be left out"), ["ConfigMap", "Deployment"])

    def test_pods_are_restricted_and_have_no_secret_in_the_environment(self):
        for name, found in self.all.items():
            self.assertTrue(pods(found))
            for kind, template in pods(found):
                self.assertEqual(insecure(template), [], f"{name} {kind}")
        [(_, template)] = pods(self.all["minimal"])
        template = json.loads(json.dumps(template))
        del template["spec"]["containers"][0]["securityContext"]["capabilities"]
        template["spec"]["hostNetwork"] = True
        self.assertEqual(insecure(template), ["hostNetwork", "capabilities"])

    def test_every_selector_selects_what_it_means_and_no_reference_dangles(self):
        for name, found in self.all.items():
            self.assertEqual(dangling(found), [], name)

    def test_the_probes_ask_livez_and_readyz_at_the_port_that_the_configuration_listens_on(self):
        for name, port, address in (("minimal", 9464, "0.0.0.0"), ("everything", 9999, "[::]")):
            container = dict(pods(self.all[name]))["Deployment"]["spec"]["containers"][0]
            self.assertEqual(container["ports"], [{"name": "http", "containerPort": port}])
            self.assertEqual(tomllib.loads(configuration(self.all[name]))["http"], {"listen": f"{address}:{port}"})
            paths = [
                container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")
            ]
            self.assertEqual(paths, ["/livez", "/livez", "/readyz"])

    def test_the_grace_period_outlasts_the_last_reply_and_the_shutdown(self):
        for relay, shutdown, grace in (
            ({}, 660, 830),
            ({"final_reply_timeout": "12m"}, 780, 950),
            ({"final_reply_timeout": "1h30m"}, 5460, 5630),
            ({"final_reply_timeout": "500ms"}, 61, 231),
            ({"final_reply_timeout": "20m", "shutdown_grace": "25m"}, 1500, 1670),
        ):
            found = documents(rendered(HELMS[-1], having("config.relay", relay)))
            self.assertEqual(dict(pods(found))["Deployment"]["spec"]["terminationGracePeriodSeconds"], grace, relay)
            written = tomllib.loads(configuration(found))["relay"]["shutdown_grace"]
            self.assertEqual(written, relay.get("shutdown_grace", f"{shutdown}s"))

    def test_the_configuration_says_what_the_values_said(self):
        for name in ("minimal", "everything"):
            written = tomllib.loads(configuration(self.all[name]))
            for section, table in VARIANTS[name]["config"].items():
                for key, value in table.items():
                    self.assertEqual(written[section][key], value, f"{section}.{key}")
                    self.assertIs(type(written[section][key]), type(value), f"{section}.{key}")

    @unittest.skipUnless(HAPAX, "HAPAX_BIN names no binary")
    def test_hapax_check_accepts_the_configurations_and_refuses_what_is_not_its(self):
        def check(text, ok, *options):
            with tempfile.TemporaryDirectory() as folder:
                # As the Secret is mounted.
                for name in ("database_password", "route_default_password"):
                    (Path(folder) / name).write_text("secret\n")
                file = Path(folder) / "hapax.toml"
                file.write_text(text)
                clean = {key: value for key, value in os.environ.items() if not key.startswith("HAPAX")}
                return run(HAPAX, "check", "--config", file, *options, ok=ok, env={**clean, "CREDENTIALS_DIRECTORY": folder})

        check(configuration(self.all["minimal"]), True)
        check(configuration(documents((PLAIN / "hapax.yaml").read_text())), True)
        # The pod is left as long as the relay may take: by the binary's own word.
        slow = having("config.database.statement_timeout", "45s")
        for found in (self.all["minimal"], documents(rendered(HELMS[-1], slow))):
            grace = dict(pods(found))["Deployment"]["spec"]["terminationGracePeriodSeconds"]
            check(configuration(found), True, "--stop-timeout", f"{grace}")
            check(configuration(found), False, "--stop-timeout", f"{grace - 11}")
        for relay, ok in (({"max_in_flight": 128, "final_reply_timeout": "12m"}, True), ({"max_in_fligt": 128}, False)):
            said = check(configuration(documents(rendered(HELMS[-1], having("config.relay", relay)))), ok)
            self.assertEqual("max_in_fligt" in said, not ok)

    def test_another_configuration_or_secret_rolls_the_pods_and_another_count_does_not(self):
        def annotations(values):
            return dict(pods(documents(rendered(HELMS[-1], values))))["Deployment"]["metadata"]["annotations"]

        first = annotations(MINIMAL)
        self.assertEqual(annotations(having("replicaCount", 5)), first)
        self.assertNotEqual(annotations(having("config.relay", {"max_in_flight": 32})), first)
        self.assertNotEqual(annotations(having("secretsVersion", "8")), annotations(having("secretsVersion", "9")))

    def test_migrations_have_another_user_and_another_secret_and_keda_takes_the_count(self):
        found = self.all["everything"]
        job = dict(pods(found))["Job"]["spec"]
        relay = dict(pods(found))["Deployment"]["spec"]
        self.assertEqual(job["containers"][0]["args"][:2], ["migrate", "up"])
        secrets = [[v["secret"]["secretName"] for v in spec["volumes"] if "secret" in v] for spec in (job, relay)]
        self.assertEqual(secrets, [["hapax-owner"], ["hapax"]])
        self.assertEqual(relay["containers"][0]["image"], f"registry.example.com/hapax:1.2.3@sha256:{'0' * 64}")
        by_kind = {document["kind"]: document for document in found}
        self.assertEqual(by_kind["Job"]["metadata"]["annotations"]["helm.sh/hook"], "pre-install,pre-upgrade")
        self.assertNotIn("replicas", by_kind["Deployment"]["spec"])
        self.assertEqual(by_kind["ScaledObject"]["spec"]["triggers"][0]["metadata"]["query"], "SELECT outbox.backlog()")

    def test_bad_values_are_refused_and_the_key_is_named(self):
        for path, value, word in BAD:
            self.assertIn(word, rendered(HELMS[-1], having(path, value), ok=False), path)
        run(HELMS[0], "template", "hapax", CHART, "--set", "replicaCount=0", ok=False)

    def test_the_schema_knows_every_value_and_no_other(self):
        def compare(schema, values, path):
            if "properties" not in schema or path == "config":
                return
            self.assertEqual(set(schema["properties"]) - {"global"}, set(values), path or "values.yaml")
            for key, inner in schema["properties"].items():
                if isinstance(values.get(key), dict):
                    compare(inner, values[key], f"{path}.{key}".strip("."))

        schema = json.loads((CHART / "values.schema.json").read_text())
        compare(schema, yaml.safe_load((CHART / "values.yaml").read_text()), "")

    def test_names_stay_short_enough_for_what_is_appended(self):
        found = documents(
            rendered(
                HELMS[-1], having("migrations", VARIANTS["migrations as a plain job"]["migrations"]), release="r" * 53
            )
        )
        for document in found:
            self.assertLessEqual(len(document["metadata"]["name"]), 63)
            self.assertRegex(document["metadata"]["name"], r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")


class Plain(unittest.TestCase):
    def test_the_manifests_are_what_the_chart_makes(self):
        spec = importlib.util.spec_from_file_location("generate", PLAIN / "generate.py")
        generate = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(generate)
        for helm in HELMS:
            texts = generate.manifests(helm)
            self.assertEqual(
                sorted(texts), sorted(file.name for file in PLAIN.glob("*.yaml") if file.name != "values.yaml")
            )
            for name, text in texts.items():
                self.assertEqual(text, (PLAIN / name).read_text(), f"{name}: type deploy/kubernetes/generate.py")
        copy = CHART / "files/alerts.yml"
        self.assertEqual(
            copy.read_text(), (DEPLOY / "prometheus/alerts.yml").read_text(), "type deploy/kubernetes/generate.py"
        )

    def test_they_fit_the_published_schemas_are_restricted_and_complete(self):
        found = [
            document
            for file in PLAIN.glob("*.yaml")
            if file.name != "values.yaml"
            for document in documents(file.read_text())
        ]
        self.assertEqual(len(found), 10)
        for document in found:
            valid(document, FEW)
        self.assertEqual([problem for _, template in pods(found) for problem in insecure(template)], [])
        self.assertEqual(dangling(found), [])

    def test_no_file_carries_a_password(self):
        for file in [*PLAIN.iterdir(), *CHART.rglob("*")]:
            if file.is_file():
                self.assertIsNone(re.search(r"://[^/@\s:\"]+:[^/@\s.]+@", file.read_text()), file)


if __name__ == "__main__":
    main()
