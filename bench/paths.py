"""Where results and pages lie, found from this file, so that a command finds them from any current folder."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
SPEED_RESULTS = ROOT / "bench" / "speed" / "results"
PRIVACY_RESULTS = ROOT / "bench" / "privacy" / "results"
CHECKPOINTS = ROOT / "build" / "federated"
STUDY = ROOT / "build" / "study"
README = ROOT / "README.md"
PRIVACY_PAGE = ROOT / "docs" / "privacy.md"
