"""What is asked of every manifest: published schemas, restricted Pod Security, selectors that select."""

import functools
import json
import re
from pathlib import Path

import jsonschema
import kubernetes_validate
from kubernetes_validate import utils

CRDS = Path(__file__).resolve().parent / "crds"
# The chart asks for 1.27 or newer.
VERSIONS = [version for version in kubernetes_validate.utils.all_versions() if int(version.split(".")[1]) >= 27]
FEW = ["1.27", "1.31", VERSIONS[-1]]

utils.schema_contents = functools.lru_cache(maxsize=None)(utils.schema_contents)


def valid(document, versions):
    """Fails unless the published schemas of these versions have every field of it. Answers how many looked."""
    own = CRDS / f"{document['kind']}.json"
    if own.exists():
        jsonschema.validate(document, json.loads(own.read_text()))
        return 1
    for version in versions:
        kubernetes_validate.validate(document, version, strict=True)
    return len(versions)


def pods(documents):
    """Kind and pod template of everything that makes pods."""
    return [
        (document["kind"], document["spec"]["template"])
        for document in documents
        if document["kind"] in ("Deployment", "Job")
    ]


def insecure(template):
    """What the restricted Pod Security Standard would refuse, and what hapax asks for beyond it."""
    spec, found = template["spec"], []
    context = spec.get("securityContext", {})
    for field in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
        if spec.get(field):
            found.append(field)
    if spec.get("automountServiceAccountToken") is not False:
        found.append("automountServiceAccountToken")
    if not context.get("runAsNonRoot") or not context.get("runAsUser"):
        found.append("runAsNonRoot")
    if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        found.append("seccompProfile")
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    for volume in spec.get("volumes", []):
        if not set(volume) - {"name"} <= allowed | {"image"}:
            found.append(f"volume {volume['name']}")
    for container in spec["containers"] + spec.get("initContainers", []):
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            found.append("allowPrivilegeEscalation")
        if own.get("capabilities", {}) != {"drop": ["ALL"]}:
            found.append("capabilities")
        if own.get("readOnlyRootFilesystem") is not True:
            found.append("readOnlyRootFilesystem")
        if "memory" not in container.get("resources", {}).get("limits", {}):
            found.append("no memory limit")
        if any("hostPort" in port for port in container.get("ports", [])):
            found.append("hostPort")
        for variable in container.get("env", []):
            secret = re.search("PASSWORD|TOKEN|SECRET", variable["name"])
            if secret or "secretKeyRef" in variable.get("valueFrom", {}):
                found.append(f"secret in the environment: {variable['name']}")
    return found


def selects(selector, template):
    labels = template["metadata"]["labels"]
    return all(labels.get(key) == value for key, value in selector["matchLabels"].items())


def dangling(documents):
    """References within a set of manifests that lead nowhere."""
    templates, found = pods(documents), []
    names = {(document["kind"], document["metadata"]["name"]) for document in documents}
    for document in documents:
        kind, spec = document["kind"], document.get("spec", {})
        if kind in ("Deployment", "PodDisruptionBudget", "PodMonitor"):
            chosen = [who for who, template in templates if selects(spec["selector"], template)]
            if chosen != ["Deployment"]:
                found.append(f"{kind} selects {chosen}")
        if kind == "NetworkPolicy" and len([1 for _, t in templates if selects(spec["podSelector"], t)]) != len(
            templates
        ):
            found.append("NetworkPolicy leaves pods out")
        if kind == "ScaledObject":
            if ("Deployment", spec["scaleTargetRef"]["name"]) not in names:
                found.append("ScaledObject scales nothing")
            if ("TriggerAuthentication", spec["triggers"][0]["authenticationRef"]["name"]) not in names:
                found.append("ScaledObject has no authentication")
    for _, template in templates:
        spec = template["spec"]
        ports = {port["name"] for container in spec["containers"] for port in container.get("ports", [])}
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        for container in spec["containers"]:
            found += [f"no volume {m['name']}" for m in container.get("volumeMounts", []) if m["name"] not in volumes]
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if probe in container and container[probe]["httpGet"]["port"] not in ports:
                    found.append(f"{probe} has no port")
        for volume in spec.get("volumes", []):
            name = volume.get("configMap", {}).get("name")
            if name and ("ConfigMap", name) not in names and name.startswith("hapax"):
                found.append(f"no ConfigMap {name}")
        account = spec.get("serviceAccountName", "default")
        if account not in ("default", "given") and ("ServiceAccount", account) not in names:
            found.append(f"no ServiceAccount {account}")
    return found
