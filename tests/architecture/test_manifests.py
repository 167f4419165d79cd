"""The Kubernetes manifests: they name what the service knows, select what they mean, and run with no more than it needs."""

import shutil
import subprocess
from typing import Any

import pytest
import yaml

from service.all_routes import all_routes
from service.routes import Public
from service.settings import Settings, unknown_variables
from service.supervisor import KILL_MARGIN_SECONDS
from tests.support.paths import ROOT

BASE = ROOT / "deploy/kustomize/base"
OVERLAYS = sorted((ROOT / "deploy/kustomize/overlays").iterdir())


def kustomization() -> dict[str, Any]:
    return yaml.safe_load((BASE / "kustomization.yaml").read_text("utf-8"))


def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    """Return every object of the base by kind and name."""
    texts = [(BASE / name).read_text("utf-8") for name in kustomization()["resources"]]
    found = [document for text in texts for document in yaml.safe_load_all(text)]
    return {(document["kind"], document["metadata"]["name"]): document for document in found}


def pods() -> dict[str, dict[str, Any]]:
    """Return the pod templates by what they are of."""
    objects = manifests()
    return {
        "server": objects["Deployment", "kasbah"]["spec"]["template"],
        "migration": objects["Job", "kasbah-migrate"]["spec"]["template"],
    }


def settings_of(overlay: dict[str, Any]) -> dict[str, str]:
    (generated,) = overlay["configMapGenerator"]
    return dict(literal.split("=", 1) for literal in generated["literals"])


def test_every_file_of_the_base_is_used():
    """A manifest that no kustomization names is never applied."""
    assert {path.name for path in BASE.iterdir()} == {*kustomization()["resources"], "kustomization.yaml"}


def test_every_variable_is_a_setting():
    """A misspelt variable is ignored by the service, and by Kubernetes."""
    named = set(settings_of(kustomization()))
    for pod in pods().values():
        named |= {entry["name"] for entry in pod["spec"]["containers"][0]["env"]}
    assert unknown_variables(dict.fromkeys(named, "")) == []
    required = {f"KASBAH_{name.upper()}" for name, field in Settings.model_fields.items() if field.is_required()}
    assert required - {"KASBAH_CACHE"} <= named
    for overlay in OVERLAYS:
        found = yaml.safe_load((overlay / "kustomization.yaml").read_text("utf-8"))
        assert unknown_variables(settings_of(found)) == []


def test_what_selects_servers_does_not_select_the_migration():
    """Else connections, disruption budget and spread would count pods that serve nothing."""
    objects = manifests()
    deployment = objects["Deployment", "kasbah"]["spec"]
    labels = {name: pod["metadata"]["labels"] for name, pod in pods().items()}
    selectors = [
        deployment["selector"]["matchLabels"],
        *(each["labelSelector"]["matchLabels"] for each in deployment["template"]["spec"]["topologySpreadConstraints"]),
        objects["Service", "kasbah"]["spec"]["selector"],
        objects["PodDisruptionBudget", "kasbah"]["spec"]["selector"]["matchLabels"],
        objects["NetworkPolicy", "kasbah"]["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels["server"].items()
        assert not selector.items() <= labels["migration"].items()
    migrating = objects["NetworkPolicy", "kasbah-migrate"]["spec"]["podSelector"]["matchLabels"]
    assert migrating.items() <= labels["migration"].items()
    assert not migrating.items() <= labels["server"].items()


@pytest.mark.parametrize("name", ["server", "migration"])
def test_a_container_has_no_more_rights_than_it_needs(name):
    """No root, no writing to its image, no capability, no token of the cluster, and bounds on what it takes."""
    pod = pods()[name]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False, "else a Service called `kasbah` sets KASBAH_PORT to a URL"
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    assert "memory" in container["resources"]["limits"]


def test_the_service_cannot_change_the_schema():
    """The owner's URL is the migration's alone."""
    owners = {
        name: "KASBAH_MIGRATION_DATABASE_URL" in {entry["name"] for entry in pod["spec"]["containers"][0]["env"]}
        for name, pod in pods().items()
    }
    assert owners == {"server": False, "migration": True}


def test_probes_ask_open_routes_on_the_port_that_is_served():
    """A probe has no key."""
    (container,) = pods()["server"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": int(settings_of(kustomization())["KASBAH_PORT"])}
    open_paths = {route.path for route in all_routes() if isinstance(route.access, Public)}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["port"] in ports
        assert asked["path"] in open_paths
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz", "an outage of PostgreSQL restarts nothing"
    assert manifests()["Service", "kasbah"]["spec"]["ports"][0]["targetPort"] in ports


def test_a_pod_that_ends_is_given_the_time_it_takes():
    """It is unready for longer than a probe takes to see it, and is killed only after it killed what is late itself."""
    pod = pods()["server"]["spec"]
    settings = settings_of(kustomization())
    unready, drain = (float(settings[f"KASBAH_{name}_SECONDS"]) for name in ("UNREADY", "DRAIN"))
    assert pod["terminationGracePeriodSeconds"] > unready + drain + KILL_MARGIN_SECONDS
    readiness = pod["containers"][0]["readinessProbe"]
    assert unready > readiness["failureThreshold"] * readiness["periodSeconds"] + readiness["timeoutSeconds"]


@pytest.mark.parametrize("place", [BASE, *OVERLAYS], ids=lambda place: place.name)
def test_kustomize_builds_it(place):
    """As `kubectl apply -k` reads it."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("no kubectl here")
    done = subprocess.run([program, "kustomize", place], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(list(yaml.safe_load_all(done.stdout))) == len(manifests()) + 1
