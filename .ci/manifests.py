"""Checks rendered manifests for what a schema cannot express: python manifests.py FILE...

Pod Security's restricted profile, the fields that an update without loss rests on, and that every
selector selects something.
"""

import sys

import yaml

failures = []


def expect(what, holds):
    if not holds:
        failures.append(what)


def labels_match(selector, labels):
    return bool(selector) and selector.items() <= labels.items()


def check_pod(name, pod):
    """The restricted profile, as far as a pod without volumes and init containers can violate it."""
    for field in ("hostNetwork", "hostPID", "hostIPC", "initContainers", "volumes"):
        expect(f"{name}: no {field}", field not in pod)
    security = pod["securityContext"]
    expect(f"{name}: runAsNonRoot", security.get("runAsNonRoot") is True)
    expect(f"{name}: runAsUser", security.get("runAsUser", 0) > 0)
    expect(f"{name}: seccompProfile", security.get("seccompProfile") == {"type": "RuntimeDefault"})
    expect(f"{name}: enableServiceLinks", pod.get("enableServiceLinks") is False)
    expect(f"{name}: topology spread", pod.get("topologySpreadConstraints"))
    for container in pod["containers"]:
        check_container(name, container, pod["terminationGracePeriodSeconds"])


def check_container(name, container, grace_seconds):
    security = container["securityContext"]
    expect(f"{name}: allowPrivilegeEscalation", security.get("allowPrivilegeEscalation") is False)
    expect(f"{name}: readOnlyRootFilesystem", security.get("readOnlyRootFilesystem") is True)
    expect(f"{name}: capabilities", security.get("capabilities") == {"drop": ["ALL"]})
    expect(f"{name}: not privileged", "privileged" not in security)
    expect(f"{name}: no hostPort", not any("hostPort" in port for port in container["ports"]))

    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    end_ms = int(environment["SHUTDOWN_DELAY_MS"]) + int(environment["DRAIN_TIMEOUT_MS"])
    expect(f"{name}: the grace period holds delay and drain", grace_seconds * 1000 > end_ms)
    if name == "api-frontend":
        backend = (environment.get("API_BACKEND_URL"), environment.get("API_BACKEND_PORT"))
        expect(f"{name}: both variables of the backend", backend == ("api-backend", "8001"))

    for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        expect(f"{name}: {probe}", container[probe]["httpGet"]["path"] == path)
        port_names = [port["name"] for port in container["ports"]]
        expect(f"{name}: {probe}'s port", container[probe]["httpGet"]["port"] in port_names)
    for amounts in ("requests", "limits"):
        expect(f"{name}: {amounts}", container["resources"][amounts].keys() == {"cpu", "memory"})


def check(path):
    with open(path) as file:
        resources = list(yaml.safe_load_all(file))
    kinds = {}
    for resource in resources:
        kinds.setdefault(resource["kind"], []).append(resource)

    enforced = kinds["Namespace"][0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    expect("the namespace enforces the restricted profile", enforced == "restricted")

    pods = {}
    for deployment in kinds["Deployment"]:
        name, spec = deployment["metadata"]["name"], deployment["spec"]
        pods[name] = spec["template"]["metadata"]["labels"]
        expect(f"{name}: several replicas", spec["replicas"] > 1)
        expect(f"{name}: maxUnavailable", spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0)
        expect(f"{name}: selector", labels_match(spec["selector"]["matchLabels"], pods[name]))
        for constraint in spec["template"]["spec"].get("topologySpreadConstraints", []):
            selector = constraint["labelSelector"]["matchLabels"]
            expect(f"{name}: topology spread's selector", labels_match(selector, pods[name]))
        check_pod(name, spec["template"]["spec"])
    expect("two Deployments", pods.keys() == {"api-backend", "api-frontend"})

    for kind in ("Service", "PodDisruptionBudget"):
        expect(f"two of {kind}", {each["metadata"]["name"] for each in kinds[kind]} == pods.keys())
        for each in kinds[kind]:
            name, selector = each["metadata"]["name"], each["spec"]["selector"]
            labels = pods.get(name, {})
            expect(f"{kind} {name}", labels_match(selector.get("matchLabels", selector), labels))

    for policy in kinds["NetworkPolicy"]:
        allowed = policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
        selected = policy["spec"]["podSelector"]["matchLabels"]
        expect("the policy is the backend's", labels_match(selected, pods["api-backend"]))
        expect("the policy lets the frontend in", labels_match(allowed, pods["api-frontend"]))

    for each in resources:
        if each["kind"] != "Namespace":
            expect(f"{each['kind']}: namespace", each["metadata"].get("namespace") == "exercise")


for path in sys.argv[1:]:
    check(path)
    for failure in failures:
        print(f"{path}: wrong: {failure}")
sys.exit(1 if failures else 0)
