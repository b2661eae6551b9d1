"""A mixed collection from end to end: indexed, killed, continued, tagged, read by exiftool and searched in a browser.

FACEATTR_PHOTOS=2000 makes it as large as collections are; the default is for the suite.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from browser import CHROMEDRIVER, CHROMIUM, MISSING, browser
from mixed_collection import make_collection
from serving import serving

from faceattr.search.index import Index

PHOTOS = int(os.environ.get("FACEATTR_PHOTOS", 60))


def command(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "faceattr.cli", *map(str, arguments)], text=True, **options)


@pytest.fixture(scope="module")
def weights(aged_weights):
    return aged_weights


@pytest.fixture(scope="module")
def indexed(tmp_path_factory, weights):
    """The folder of a collection whose index was killed on the way, and what was made."""
    folder = tmp_path_factory.mktemp("whole")
    made = make_collection(folder / "photos", PHOTOS)
    arguments = ["index", "photos", "--db", "db", "--weights", str(weights), "--quiet"]
    process = subprocess.Popen([sys.executable, "-m", "faceattr.cli", *arguments], cwd=folder, stderr=subprocess.PIPE)
    kept = 0
    while process.poll() is None and kept < PHOTOS // 3:
        time.sleep(0.1)
        try:
            with Index(folder / "db", read_only=True) as index:
                kept = index.counts()["photos"]
        except ValueError:  # not made yet
            pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    result = command(*arguments[:-1], cwd=folder, stderr=subprocess.PIPE)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    print(f"killed with {kept} photos in the index; then: {result.stderr.splitlines()[-1]}")
    return folder, made


def test_index(indexed):
    folder, made = indexed
    with Index(folder / "db", read_only=True) as index:
        counts = index.counts()
    assert (counts["photos"], counts["unreadable"], counts["missing"]) == (made["good"], made["broken"], 0)
    assert counts["faces"] > made["good"] / 3


def test_again_there_is_nothing_to_do(indexed, weights):
    folder, made = indexed
    result = command("index", "photos", "--db", "db", "--weights", weights, cwd=folder, stderr=subprocess.PIPE)
    assert f"{made['good']} unchanged, {made['broken']} failed;" in result.stderr


def test_sidecars(indexed, weights):
    if shutil.which("exiftool") is None:
        pytest.skip("needs exiftool (apt-get install libimage-exiftool-perl)")
    folder, made = indexed
    arguments = ["predict", "photos", "--weights", weights, "--xmp", "--quiet", "--format", "jsonl"]
    result = command(*arguments, cwd=folder, capture_output=True)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    records = {record["image"]: record for record in map(json.loads, result.stdout.splitlines())}
    assert len(records) == PHOTOS and sum(record["error"] is not None for record in records.values()) == made["broken"]
    out = subprocess.run(
        ["exiftool", "-q", "-r", "-j", "-n", "-struct", "-XMP:all", "-ext", "xmp", "photos"],
        cwd=folder,
        capture_output=True,
    )
    sidecars = json.loads(out.stdout)
    assert out.stderr == b"" and len(sidecars) == made["good"]
    regions = 0
    for sidecar in sidecars:
        record = records[sidecar["SourceFile"].removesuffix(".xmp")]
        found = sidecar.get("RegionInfo", {}).get("RegionList", [])
        assert len(found) == len(record["faces"]) == sidecar["Faces"]
        words = sidecar.get("Subject", [])
        labels = {label for face in record["faces"] for label in face["labels"]}
        assert ({words} if isinstance(words, str) else set(words)) == labels
        ages = sorted(region["Extensions"]["XMP-faceattr:Age"] for region in found)
        assert ages == sorted(face["age"]["years"] for face in record["faces"])
        regions += len(found)
    print(f"exiftool read {len(sidecars)} sidecars with {regions} regions")


def test_browser(indexed, weights, tmp_path):
    if not (CHROMIUM and CHROMEDRIVER):
        pytest.skip(MISSING)
    folder, _ = indexed
    query = "Smiling and age>=40 and faces>=2"
    with Index(folder / "db", read_only=True) as index:
        expected = index.count(query)
    assert expected > 0
    with serving(folder / "db", weights) as server, browser(tmp_path / "profile") as page:
        page.open(server.url)
        page.wait("return document.images.length")
        page.run("document.getElementById('query').value = arguments[0]; search()", query)
        status = f"{expected} photo{'s' * (expected != 1)}"
        page.wait("return document.getElementById('message').textContent === arguments[0]", status)
        page.run("document.querySelector('.card').click()")
        page.wait("return document.querySelector('#large img')?.naturalWidth")
