"""Write env.example out of the words of the settings: `make env-example`. A test holds them."""

from pathlib import Path

from worker.settings import PREFIX, SECRETS, Settings

FILE = Path(__file__).parent / "env.example"
# What compose.yaml sets, because paths and ports inside a container are the container's.
BY_COMPOSE = {"home_dir", "bind", "dicom_port", "web_bind", "web_port", "metrics_port"}
HEAD = """\
# Copy to .env and change. A line that is commented out shows the default; empty means the default.
# A value with a $ goes in single quotes.

# ---- This deployment: read by Docker Compose alone ----------------------------------------------
# Which of the optional services run, comma-separated: orthanc (a test PACS), monitoring, ohif.
COMPOSE_PROFILES=orthanc
# Where images come from: IMAGE_PREFIX/listener:IMAGE_TAG and so on. Pin a version in production.
#IMAGE_PREFIX=cxr-worker
#IMAGE_TAG=latest
#ORTHANC_IMAGE=orthancteam/orthanc:latest
# Another major version of PostgreSQL reads a dump, not the volume of this one.
#POSTGRES_IMAGE=postgres:16-bookworm
# What is reached from outside, as address:port or port. The PACS sends to the first.
#PUBLISH_DICOM=11112
#PUBLISH_WEB=127.0.0.1:8080
#PUBLISH_ORTHANC=127.0.0.1:8042
#PUBLISH_ORTHANC_DICOM=127.0.0.1:4242
#PUBLISH_PROMETHEUS=127.0.0.1:9090
#PUBLISH_GRAFANA=127.0.0.1:3000
#PUBLISH_OHIF=127.0.0.1:3001
# Only with compose.tls.yaml:
#PUBLISH_DICOM_TLS=2762
# Only with compose.cluster.yaml:
#PUBLISH_DATABASE=10.0.0.1:5432
#PUBLISH_BROKER=10.0.0.1:6379

# ---- cxr-worker: every setting, as in docs/SETTINGS.md ----------------------------------------
# Files that settings name lie in ./config, which containers see as /etc/cxr-worker.
"""
HERE = {"destinations": "ORTHANC@orthanc:4242"}


def render() -> str:
    """The whole file."""
    parts = [HEAD]
    for name, field in Settings.model_fields.items():
        variable = PREFIX + name.upper()
        parts.append(f"\n# {field.description}\n")
        if name in BY_COMPOSE:
            parts.append(f"# (compose.yaml sets {variable} itself.)\n")
        elif name in SECRETS:
            parts.append(f"# (A secret: secrets/{name}. {variable} here would win over it.)\n")
        elif name in HERE:
            parts.append(f"{variable}={HERE[name]}\n")
        else:
            parts.append(f"#{variable}={_default(name)}\n")
    return "".join(parts)


def _default(name: str) -> str:
    return Settings.model_construct().environment()[PREFIX + name.upper()]


if __name__ == "__main__":
    FILE.write_text(render())
