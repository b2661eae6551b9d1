"""The page of photos: what is in it, and what a real browser makes of it."""

import html
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest

from faceattr.page import Page, PageFace

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ATTRIBUTES = ("Smiling", "Wearing_Hat")
HOSTILE = '</script><script>document.title="broken"</script><b>&amp;'
PIXELS = np.full((90, 120, 3), 200, np.uint8)


def face(box, *columns, notes=()):
    """columns: the probabilities; labels are those from 0.5 on."""
    return PageFace(box, [[value >= 0.5 for value in column] for column in columns], columns, notes)


@pytest.fixture
def gallery(tmp_path):
    path = tmp_path / "gallery.html"
    with Page(path, "Faces <of> mine", ATTRIBUTES) as page:
        page.add("a.jpg", PIXELS, [face((0.1, 0.2, 0.4, 0.6), (0.9, 0.2)), face((0.5, 0.2, 0.9, 0.6), (0.3, 0.8))])
        page.add("b.jpg", PIXELS, [face((0.1, 0.1, 0.9, 0.9), (0.95, 0.1), notes=["low score, perhaps no face"])])
        page.add("c.jpg", PIXELS, [])
        page.add(HOSTILE, PIXELS, [face((0, 0, 1, 1), (0.1, 0.1))])
    return path


@pytest.fixture
def comparison(tmp_path):
    path = tmp_path / "compare.html"
    table = [["attribute", "gained"], ["Smiling", "<50%>"]]
    with Page(path, "Compared", ATTRIBUTES, ["before", "after"], table) as page:
        page.add("gains.jpg", PIXELS, [face((0, 0, 1, 1), (0.4, 0.1), (0.6, 0.1))])
        page.add("loses.jpg", PIXELS, [face((0, 0, 1, 1), (0.9, 0.9), (0.2, 0.95))])
        page.add("keeps.jpg", PIXELS, [face(None, (0.9, 0.1), (0.8, 0.2))])
    return path


class TestFile:
    def test_everything_is_inside(self, gallery):
        text = gallery.read_text()
        assert not re.search(r"""\b(src|href)\s*=\s*["'](?!data:)|url\(|@import|https?://""", text)
        assert "default-src 'none'" in text and "{{" not in text
        photos = [json.loads(found) for found in re.findall(r'class="photo">(.*)</script>', text)]
        assert [photo["name"] for photo in photos] == ["a.jpg", "b.jpg", "c.jpg", HOSTILE]
        assert all(photo["image"].startswith("data:image/jpeg;base64,") for photo in photos)
        assert photos[0]["faces"][0]["box"] == [10, 20, 30, 40]
        assert photos[1]["faces"][0]["notes"] == ["low score, perhaps no face"]

    def test_it_appears_when_it_is_complete(self, tmp_path):
        path = tmp_path / "a.html"
        with pytest.raises(KeyboardInterrupt), Page(path, "t", ()) as page:
            page.add("a", PIXELS, [])
            assert not path.exists()
            raise KeyboardInterrupt
        assert path.read_text().rstrip().endswith("</html>") and [file.name for file in tmp_path.iterdir()] == [
            "a.html"
        ]

    def test_what_is_no_file_is_not_replaced(self, tmp_path):
        os.mkfifo(tmp_path / "a.html")
        for path in (tmp_path / "a.html", tmp_path):
            with pytest.raises(ValueError, match="is there and no file"):
                Page(path, "t", ())

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(ValueError, match="nowhere/a.html: cannot be written"):
            Page(tmp_path / "nowhere" / "a.html", "t", ())


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")
class TestBrowser:
    def after(self, path, tmp_path, *steps):
        """The page as Chromium leaves it after `steps`, pairs of a control and its value, and what it then shows."""
        script = "const set = (control, value) => { control.value = value;"
        script += "control.dispatchEvent(new Event('input', { bubbles: true })); };"
        for control, value in steps:
            if value is None:
                script += f"find({json.dumps(control)}).click();"
            elif "." in control:  # of the last condition
                script += f"set([...document.querySelectorAll({json.dumps(control)})].at(-1), {json.dumps(value)});"
            else:
                script += f"set(find({json.dumps(control)}), {json.dumps(value)});"
        script += """
          document.querySelectorAll("details").forEach((details) => { details.open = true; });
          setTimeout(() => { const seen = [...document.querySelectorAll("article")].filter((card) => card.offsetHeight);
            document.body.dataset.seen = JSON.stringify({ title: document.title,
              names: seen.map((card) => card.querySelector(".name").textContent),
              chips: seen.map((card) => [...card.querySelectorAll(".chip")].map((chip) => chip.textContent)),
              matches: document.querySelectorAll(".box.match").length, status: find("shown").textContent,
              images: [...document.images].map((image) => image.naturalWidth),
              boxes: seen.map((card) => [...card.querySelectorAll(".box")].map((box) => {
                const outer = box.parentElement.getBoundingClientRect(), inner = box.getBoundingClientRect();
                const parts = [(inner.x - outer.x) / outer.width, inner.width / outer.width];
                return parts.map((part) => Math.round(100 * part));
              })),
              rows: seen.map((card) => card.querySelectorAll("td.bar").length),
            }); }, 300);"""
        copy = tmp_path / "copy.html"
        copy.write_text(path.read_text().replace("</body>", f"<script>{script}</script></body>"))
        flags = (
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
            f"--disable-component-update --disable-sync --virtual-time-budget=3000 "
            f"--user-data-dir={tmp_path / 'profile'}"
        )
        command = [CHROMIUM, *flags.split(), "--dump-dom", copy.as_uri()]
        dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
        return json.loads(html.unescape(re.search(r'data-seen="([^"]*)"', dom).group(1)))

    def test_all_photos_at_first(self, gallery, tmp_path):
        seen = self.after(gallery, tmp_path)
        assert seen["names"] == ["a.jpg", "b.jpg", "c.jpg", HOSTILE] and seen["status"] == "4 of 4 photos"
        assert seen["title"] == "Faces <of> mine" and seen["images"] == [120] * 4
        assert seen["chips"] == [["Smiling 90%", "Wearing Hat 80%"], ["Smiling 95%"], [], []]
        assert seen["boxes"][0] == [[10, 30], [50, 40]] and seen["rows"] == [4, 2, 0, 2]

    def test_filters_by_attribute(self, gallery, tmp_path):
        seen = self.after(gallery, tmp_path, ("attribute", "1"))
        assert seen["names"] == ["a.jpg"] and seen["matches"] == 1 and seen["status"] == "1 of 4 photos"
        seen = self.after(gallery, tmp_path, ("attribute", "0"), ("order", "value"))
        assert seen["names"] == ["b.jpg", "a.jpg"]
        seen = self.after(gallery, tmp_path, ("attribute", "0"), ("state", "not there"), ("name", "A.J"))
        assert seen["names"] == ["a.jpg"] and seen["matches"] == 2  # the second face there, and the hostile name's

    def test_several_attributes_of_one_face(self, gallery, tmp_path):
        second = [("add", None), (".attribute", "1")]
        # a.jpg has a face that smiles and another one with a hat.
        seen = self.after(gallery, tmp_path, ("attribute", "0"), *second)
        assert seen["names"] == [] and seen["status"] == "0 of 4 photos"
        seen = self.after(gallery, tmp_path, ("attribute", "0"), *second, (".state", "not there"), ("order", "value"))
        assert seen["names"] == ["b.jpg", "a.jpg"] and seen["matches"] == 2
        seen = self.after(gallery, tmp_path, *second, ("attribute", "0"), ("state", "not there"))
        assert seen["names"] == ["a.jpg"]
        seen = self.after(gallery, tmp_path, ("add", None), ("add", None))
        assert len(seen["names"]) == 4

    def test_comparison(self, comparison, tmp_path):
        assert "&lt;50%&gt;" in comparison.read_text()
        seen = self.after(comparison, tmp_path)
        assert [len(boxes) for boxes in seen["boxes"]] == [1, 1, 0]
        assert seen["chips"] == [["+ Smiling 40% \u2192 60%"], ["\u2212 Smiling 90% \u2192 20%"], []]
        assert self.after(comparison, tmp_path, ("attribute", "0"))["names"] == ["gains.jpg", "loses.jpg"]
        seen = self.after(comparison, tmp_path, ("attribute", "0"), ("state", "lost"))
        assert seen["names"] == ["loses.jpg"]
        seen = self.after(comparison, tmp_path, ("attribute", "0"), ("state", "there in both"))
        assert seen["names"] == ["keeps.jpg"]
