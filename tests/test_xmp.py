"""Sidecars: what other programs read in them, and that nothing of what others wrote is lost."""

import io
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps
from small_checkpoint import ATTRIBUTES, NEUTRAL, SMILING, draw_photo
from unprivileged import open_folder, unprivileged  # noqa: F401 a fixture

import faceattr
from faceattr.ages import Age
from faceattr.cli import main
from faceattr.pipeline import Face, Prediction
from faceattr.xmp import Sidecars, as_stored, merge, sidecar_path

needs_exiftool = pytest.mark.skipif(
    shutil.which("exiftool") is None, reason="needs exiftool (apt-get install libimage-exiftool-perl)"
)
needs_exiv2 = pytest.mark.skipif(shutil.which("exiv2") is None, reason="needs exiv2 (apt-get install exiv2)")

LEFT = Face((100, 50, 200, 200), 0.9876, {"Smiling": 0.91, "Wearing_Hat": 0.2}, ("Smiling",))
RIGHT = Face((300, 100, 360, 180), 0.5, {"Smiling": 0.1, "Wearing_Hat": 0.8}, ("Wearing_Hat",))


def prediction(*faces, image="a.jpg", size=(400, 200), orientation=1):
    return Prediction(image, *size, list(faces), orientation=orientation)


def exiftool(path, *options):
    """What exiftool reads: properties of XMP by their names."""
    out = subprocess.run(
        ["exiftool", "-j", "-n", "-struct", "-XMP:all", *options, path], capture_output=True, check=True
    )
    assert not out.stderr, out.stderr
    (found,) = json.loads(out.stdout.replace(b"XMP-faceattr:", b""))
    return found


def write(tmp_path, *faces, old=None, **options):
    path = tmp_path / "a.jpg.xmp"
    content = merge(old, prediction(*faces, **options), weights="w")
    path.write_bytes(content)
    return path


def as_list(value):
    return [] if value is None else value if isinstance(value, list) else [value]


@needs_exiftool
class TestNew:
    def test_what_exiftool_reads(self, tmp_path):
        found = exiftool(write(tmp_path, LEFT, RIGHT))
        info = found["RegionInfo"]
        assert info["AppliedToDimensions"] == {"W": 400, "H": 200, "Unit": "pixel"}
        first, second = info["RegionList"]
        assert first["Type"] == "Face" and first["Area"] == {
            "X": 0.375, "Y": 0.625, "W": 0.25, "H": 0.75, "Unit": "normalized"
        }  # fmt: skip
        assert second["Area"]["X"] == 0.825
        assert first["Extensions"]["Score"] == 0.9876
        assert first["Extensions"]["Probabilities"] == ["Smiling=0.9100", "Wearing_Hat=0.2000"]
        assert found["Subject"] == ["Smiling", "Wearing Hat"]
        assert found["HierarchicalSubject"] == ["Face|Smiling", "Face|Wearing Hat"]
        assert found["Weights"] == "w" and found["Faces"] == 2

    def test_an_age(self, tmp_path):
        path = write(tmp_path, replace(LEFT, age=Age(34.26, 28, 41.44)), RIGHT)
        first, second = (each["Extensions"] for each in exiftool(path)["RegionInfo"]["RegionList"])
        assert (first["Age"], first["AgeLow"], first["AgeHigh"]) == (34.3, 28, 41.4) and "Age" not in second
        # Weights that do not tell ages leave no earlier age behind.
        path.write_bytes(merge(path.read_bytes(), prediction(LEFT), weights="w"))
        assert b"Age" not in path.read_bytes()

    def test_no_face(self, tmp_path):
        found = exiftool(write(tmp_path))
        assert found["Faces"] == 0 and "RegionInfo" not in found and "Subject" not in found

    def test_prefix_and_names_that_xml_minds(self, tmp_path):
        face = Face((0, 0, 50, 50), None, {"R&B <3 'x' \"y\"": 0.9}, ("R&B <3 'x' \"y\"",))
        path = tmp_path / "a.jpg.xmp"
        path.write_bytes(merge(None, prediction(face), weights="w", prefix="Köpfe & mehr"))
        found = exiftool(path)
        assert as_list(found["Subject"]) == ["R&B <3 'x' \"y\""]
        assert as_list(found["HierarchicalSubject"]) == ["Köpfe & mehr|R&B <3 'x' \"y\""]

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("frame", ["stored", "displayed"])
    def test_orientation(self, tmp_path, orientation, frame):
        # The oracle is Pillow: where a mark of the displayed photo lies in the stored one.
        stored = np.zeros((200, 400), np.uint8)
        stored[20:60, 300:380] = 255
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = io.BytesIO()
        Image.fromarray(stored).save(data, "PNG", exif=exif)
        displayed = np.asarray(ImageOps.exif_transpose(Image.open(data)))
        ys, xs = np.nonzero(displayed)
        box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        height, width = displayed.shape
        face = Face(tuple(map(float, box)), 0.9)
        path = tmp_path / "a.png.xmp"
        path.write_bytes(
            merge(None, prediction(face, size=(width, height), orientation=orientation), weights="w", frame=frame)
        )
        info = exiftool(path)["RegionInfo"]
        area, shape = info["RegionList"][0]["Area"], stored.shape if frame == "stored" else displayed.shape
        ys, xs = np.nonzero(stored if frame == "stored" else displayed)
        assert (info["AppliedToDimensions"]["H"], info["AppliedToDimensions"]["W"]) == shape
        assert area["X"] * shape[1] == pytest.approx((xs.min() + xs.max() + 1) / 2, abs=1e-3)
        assert area["Y"] * shape[0] == pytest.approx((ys.min() + ys.max() + 1) / 2, abs=1e-3)
        assert area["W"] * shape[1] == pytest.approx(np.ptp(xs) + 1, abs=1e-3)
        assert area["H"] * shape[0] == pytest.approx(np.ptp(ys) + 1, abs=1e-3)


def test_stored_is_an_involution_or_a_turn():
    box = (0.2, 0.3, 0.1, 0.4)
    for orientation in (1, 2, 3, 4, 5, 7):
        assert as_stored(as_stored(box, orientation), orientation) == pytest.approx(box)
    assert as_stored(as_stored(box, 6), 8) == pytest.approx(box)


OTHERS = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<!-- by hand -->
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <r:Description r:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4" xmlns:mine="http://mine.example/ns/"
    mine:Story="two&#10;lines, &quot;quoted&quot; &amp; more">
   <mine:Inner r:parseType="Resource"><mine:Deep>kept<!-- too --></mine:Deep></mine:Inner>
  </r:Description>
  <r:Description r:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">
   <dc:subject><r:Bag><r:li>Holiday</r:li><r:li>Smiling</r:li></r:Bag></dc:subject>
   <dc:description><r:Alt><r:li xml:lang="x-default">At the &lt;sea&gt;</r:li></r:Alt></dc:description>
  </r:Description>
 </r:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""


@needs_exiftool
class TestMerge:
    def test_what_others_wrote_stays(self, tmp_path):
        before = exiftool(self.put(tmp_path, OTHERS))
        path = write(tmp_path, LEFT, RIGHT, old=OTHERS.encode())
        found = exiftool(path)
        assert found["Rating"] == 4 and found["Description"] == "At the <sea>"
        assert found["Story"] == before["Story"] == 'two\nlines, "quoted" & more' and found["Inner"] == before["Inner"]
        assert found["Subject"] == ["Holiday", "Smiling", "Wearing Hat"]
        text = path.read_text()
        assert "<!-- by hand -->" in text and "<!-- too -->" in text and 'xpacket end="w"' in text
        assert len(found["RegionInfo"]["RegionList"]) == 2

    def put(self, tmp_path, text):
        path = tmp_path / "before.xmp"
        path.write_text(text)
        return path

    def test_our_earlier_tags_are_replaced(self, tmp_path):
        first = write(tmp_path, LEFT, RIGHT, old=OTHERS.encode()).read_bytes()
        frown = Face((100, 50, 200, 200), 0.4, {"Frowning": 0.9}, ("Frowning",))
        found = exiftool(write(tmp_path, frown, old=first))
        # Smiling was there before us.
        assert found["Subject"] == ["Holiday", "Smiling", "Frowning"]
        assert as_list(found["HierarchicalSubject"]) == ["Face|Frowning"]
        (region,) = found["RegionInfo"]["RegionList"]
        assert region["Extensions"]["Probabilities"] == ["Frowning=0.9000"]
        found = exiftool(write(tmp_path, old=first))
        assert found["Subject"] == ["Holiday", "Smiling"] and "RegionInfo" not in found

    def test_the_same_again_is_the_same(self):
        for old in (None, OTHERS.encode()):
            once = merge(old, prediction(LEFT, RIGHT), weights="w")
            assert merge(once, prediction(LEFT, RIGHT), weights="w") == once

    @pytest.mark.parametrize("struct", ["tool", "attributes", "description"])
    def test_names_are_kept_where_the_boxes_overlap(self, tmp_path, struct):
        """Regions in each of the ways that RDF has to write them; the first lies on a face, the second does not."""
        path = tmp_path / "a.jpg.xmp"
        if struct == "tool":
            regions = (
                "{AppliedToDimensions={W=400,H=200,Unit=pixel},RegionList=["
                "{Name=Anna,Type=Face,Area={X=0.36,Y=0.6,W=0.2,H=0.6,Unit=normalized}},"
                "{Name=Bob,Type=Face,Area={X=0.1,Y=0.1,W=0.05,H=0.1,Unit=normalized}},"
                "{Name=Rex,Type=Pet,Area={X=0.375,Y=0.625,W=0.25,H=0.75,Unit=normalized}}]}"
            )
            subprocess.run(["exiftool", "-q", f"-RegionInfo={regions}", "-Subject=Holiday", path], check=True)
        else:
            item = {
                "attributes": '<r:li><r:Description m:Name="{}" m:Type="{}"><m:Area a:x="{}" a:y="{}" a:w="{}" '
                'a:h="{}" a:unit="normalized"/></r:Description></r:li>',
                "description": "<r:li><r:Description><m:Name>{}</m:Name><m:Type>{}</m:Type><m:Area><r:Description>"
                "<a:x>{}</a:x><a:y>{}</a:y><a:w>{}</a:w><a:h>{}</a:h></r:Description></m:Area></r:Description></r:li>",
            }[struct]
            items = [("Anna", "Face", 0.36, 0.6, 0.2, 0.6), ("Bob", "Face", 0.1, 0.1, 0.05, 0.1)]
            items.append(("Rex", "Pet", 0.375, 0.625, 0.25, 0.75))
            path.write_text(
                '<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
                'xmlns:m="http://www.metadataworkinggroup.com/schemas/regions/" '
                'xmlns:a="http://ns.adobe.com/xmp/sType/Area#" xmlns:d="http://ns.adobe.com/xap/1.0/sType/Dimensions#">'
                '<r:Description r:about=""><m:Regions><r:Description><m:AppliedToDimensions d:w="400" d:h="200" '
                'd:unit="pixel"/><m:RegionList><r:Bag>'
                + "".join(item.format(*values) for values in items)
                + "</r:Bag></m:RegionList></r:Description></m:Regions></r:Description></r:RDF></x:xmpmeta>"
            )
        for _ in range(3):
            write(tmp_path, LEFT, RIGHT, old=path.read_bytes())
            regions = exiftool(path)["RegionInfo"]["RegionList"]
            assert [region.get("Name") for region in regions] == ["Anna", "Bob", "Rex", None]
            anna, bob, rex, new = regions
            # The person's own frame stays; what we know of the face goes there.
            assert anna["Area"]["X"] == 0.36 and anna["Extensions"]["Score"] == 0.9876
            assert "Extensions" not in bob and "Extensions" not in rex
            assert new["Area"]["X"] == 0.825 and new["Extensions"]["Own"] is True
        found = exiftool(write(tmp_path, old=path.read_bytes()))
        assert [region["Name"] for region in found["RegionInfo"]["RegionList"]] == ["Anna", "Bob", "Rex"]
        assert all("Extensions" not in region for region in found["RegionInfo"]["RegionList"])

    def test_a_name_given_to_our_region(self, tmp_path):
        path = write(tmp_path, LEFT)
        text = path.read_text().replace("<mwg-rs:Type>", "<mwg-rs:Name>Anna</mwg-rs:Name><mwg-rs:Type>")
        moved = Face((105, 52, 210, 190), 0.7, {"Smiling": 0.6}, ("Smiling",))
        (region,) = exiftool(write(tmp_path, moved, old=text.encode()))["RegionInfo"]["RegionList"]
        assert region["Name"] == "Anna" and region["Extensions"]["Score"] == 0.7
        # Also where no face is found there any more.
        found = exiftool(write(tmp_path, RIGHT, old=path.read_bytes()))
        assert [region.get("Name") for region in found["RegionInfo"]["RegionList"]] == ["Anna", None]

    def test_regions_of_the_other_frame(self, tmp_path):
        """Another program framed the displayed photo: ours go into its frame, and find its names."""
        path = tmp_path / "a.jpg.xmp"
        face = Face((50, 300, 150, 360), 0.9)
        regions = (
            "{AppliedToDimensions={W=200,H=400,Unit=pixel},RegionList=["
            "{Name=Anna,Type=Face,Area={X=0.5,Y=0.825,W=0.5,H=0.15,Unit=normalized}}]}"
        )
        subprocess.run(["exiftool", "-q", f"-RegionInfo={regions}", path], check=True)
        write(tmp_path, face, old=path.read_bytes(), size=(200, 400), orientation=6)
        (region,) = exiftool(path)["RegionInfo"]["RegionList"]
        assert region["Name"] == "Anna" and region["Extensions"]["Score"] == 0.9

    @needs_exiv2
    def test_what_exiv2_reads(self, tmp_path):
        path = tmp_path / "a.jpg.xmp"
        subprocess.run(["exiftool", "-q", "-Subject=Holiday", path], check=True)
        write(tmp_path, LEFT, RIGHT, old=path.read_bytes())
        out = subprocess.run(["exiv2", "-PXkt", "print", path], capture_output=True, text=True, check=True)
        found = [line.split(None, 1) for line in out.stdout.splitlines()]
        values = {key: value for key, value in found if value}
        assert values["Xmp.dc.subject"].strip() == "Holiday, Smiling, Wearing Hat"
        assert values["Xmp.mwg-rs.Regions/mwg-rs:RegionList[1]/mwg-rs:Area/stArea:x"].strip() == "0.375000"
        assert values["Xmp.mwg-rs.Regions/mwg-rs:RegionList[2]/mwg-rs:Type"].strip() == "Face"


class TestFiles:
    @pytest.fixture
    def photo(self, tmp_path):
        path = tmp_path / "photos" / "a.jpg"
        path.parent.mkdir()
        Image.new("RGB", (400, 200)).save(path)
        return path

    def write(self, photo, folder=None, root=None, faces=(LEFT,)):
        return Sidecars(folder, "w").write(prediction(*faces, image=str(photo)), root or photo.parent)

    def test_names(self, tmp_path):
        """darktable's and digiKam's photo.jpg.xmp; photo.xmp where it is there alone and of one picture."""
        photo = tmp_path / "a.jpg"
        photo.touch()
        assert sidecar_path(photo).name == "a.jpg.xmp"
        (tmp_path / "a.xmp").touch()
        assert sidecar_path(photo).name == "a.xmp"
        (tmp_path / "a.CR2").touch()  # whose of the two it is, nobody knows
        assert sidecar_path(photo).name == "a.jpg.xmp"
        (tmp_path / "a.CR2").unlink()
        (tmp_path / "a.jpg.xmp").touch()
        assert sidecar_path(photo).name == "a.jpg.xmp"

    def test_photos_are_never_written_to(self, photo):
        before = photo.read_bytes(), photo.stat().st_mtime_ns
        assert self.write(photo) == photo.with_name("a.jpg.xmp")
        assert (photo.read_bytes(), photo.stat().st_mtime_ns) == before
        assert sorted(path.name for path in photo.parent.iterdir()) == ["a.jpg", "a.jpg.xmp"]

    def test_an_unchanged_sidecar_is_left_alone(self, photo):
        path = self.write(photo)
        os.utime(path, ns=(1, 1))
        self.write(photo)
        assert path.stat().st_mtime_ns == 1
        self.write(photo, faces=(RIGHT,))
        assert path.stat().st_mtime_ns > 1

    def test_another_folder(self, photo, tmp_path):
        photo.with_name("a.jpg.xmp").write_text(OTHERS)
        (tmp_path / "photos" / "sub").mkdir()
        path = self.write(photo, tmp_path / "out", tmp_path)
        # Copied over the collection it loses nothing.
        assert path == tmp_path / "out" / "photos" / "a.jpg.xmp" and "Holiday" in path.read_text()
        assert photo.with_name("a.jpg.xmp").read_text() == OTHERS

    def test_two_photos_of_one_sidecar(self, photo, tmp_path):
        other = tmp_path / "others" / "a.jpg"
        other.parent.mkdir()
        shutil.copy(photo, other)
        sidecars = Sidecars(tmp_path / "out", "w")
        sidecars.write(prediction(LEFT, image=str(photo)), photo.parent)
        with pytest.raises(ValueError, match="is that of .*run them into folders of their own"):
            sidecars.write(prediction(LEFT, image=str(other)), other.parent)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"no xml",
            OTHERS.encode()[:700],
            b"<a/>",
            b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
            b"\0" * 50,
            b"\xff\xfe",
        ],
    )
    def test_what_cannot_be_understood_is_left_as_it_is(self, photo, content):
        path = photo.with_name("a.jpg.xmp")
        path.write_bytes(content)
        if content:
            with pytest.raises(ValueError, match="no XMP that can be merged .*; left as it is"):
                self.write(photo)
            assert path.read_bytes() == content
        else:  # nothing is lost
            self.write(photo)
            assert path.read_bytes()

    def test_a_pipe_in_its_place(self, photo):
        os.mkfifo(photo.with_name("a.jpg.xmp"))
        with pytest.raises(ValueError, match="it is no file"):
            self.write(photo)

    def test_a_file_in_the_folders_place(self, photo, tmp_path):
        with pytest.raises(ValueError, match="a.jpg: cannot be made a folder"):
            self.write(photo, photo)

    def test_where_it_may_not_be_written(self, open_folder):  # noqa: F811
        photo = open_folder / "a.jpg"
        Image.new("RGB", (400, 200)).save(photo)
        open_folder.chmod(0o555)
        with unprivileged(), pytest.raises(ValueError, match=r"a.jpg.xmp: cannot be written \(Permission denied\)"):
            self.write(photo)
        assert [path.name for path in open_folder.iterdir()] == ["a.jpg"]

    def test_a_name_that_is_too_long(self, photo):
        long = photo.with_name("x" * 250 + ".jpg")
        os.rename(photo, long)
        with pytest.raises(ValueError, match="File name too long"):
            self.write(long)
        assert [path.name for path in long.parent.iterdir()] == [long.name]

    def test_links_and_modes_stay(self, photo, tmp_path):
        target = tmp_path / "real.xmp"
        target.write_text(OTHERS)
        target.chmod(0o640)
        photo.with_name("a.jpg.xmp").symlink_to(target)
        self.write(photo)
        assert photo.with_name("a.jpg.xmp").is_symlink() and target.stat().st_mode & 0o777 == 0o640
        assert "Holiday" in target.read_text() and "mwg-rs:Regions" in target.read_text()

    def test_another_program_writes_meanwhile(self, photo, monkeypatch):
        from faceattr import xmp

        path = photo.with_name("a.jpg.xmp")
        self.write(photo)
        merge = xmp.merge

        def late(old, *arguments, **options):
            new = merge(old, *arguments, **options)
            if b"Holiday" not in old:
                path.write_text(OTHERS)  # after we have read it
            return new

        monkeypatch.setattr(xmp, "merge", late)
        self.write(photo, faces=(RIGHT,))
        assert "Holiday" in path.read_text() and "Wearing Hat" in path.read_text()

    @needs_exiftool
    def test_names_inside_the_photo_come_along(self, photo):
        """A reader of the sidecar may not look into the photo any more."""
        regions = (
            "{AppliedToDimensions={W=400,H=200,Unit=pixel},RegionList=["
            "{Name=Anna,Type=Face,Area={X=0.36,Y=0.6,W=0.2,H=0.6,Unit=normalized}}]}"
        )
        options = [f"-RegionInfo={regions}", "-Subject=Holiday", "-Rating=5"]
        subprocess.run(["exiftool", "-q", "-overwrite_original", *options, photo], check=True)
        found = exiftool(self.write(photo))
        (region,) = found["RegionInfo"]["RegionList"]
        assert region["Name"] == "Anna" and region["Extensions"]["Score"] == 0.9876
        assert found["Subject"] == ["Holiday", "Smiling"] and "Rating" not in found


class TestCommand:
    @needs_exiftool
    def test_beside_the_photos(self, weights, tmp_path, capsys):
        photos = tmp_path / "photos"
        photos.mkdir()
        draw_photo([(100, 100, 32, NEUTRAL), (220, 140, 32, SMILING)]).save(photos / "a.png")
        draw_photo([]).save(photos / "b.png")
        (photos / "c.jpg").write_text("text")
        (photos / "b.png.xmp").write_text("not by us")
        arguments = ["predict", str(photos), "--weights", str(weights), "--quiet", "--xmp", "--xmp-prefix", "Look"]
        assert main(arguments) == 1
        assert "b.png.xmp: no XMP that can be merged" in capsys.readouterr().err
        assert (photos / "b.png.xmp").read_text() == "not by us" and not (photos / "c.jpg.xmp").exists()
        found = exiftool(photos / "a.png.xmp")
        assert found["HierarchicalSubject"] == ["Look|Frowning", "Look|Smiling"]
        faces = faceattr.load(weights).predict(photos / "a.png")
        for face, region in zip(faces, found["RegionInfo"]["RegionList"], strict=True):
            assert region["Area"]["X"] * 320 == pytest.approx((face.box[0] + face.box[2]) / 2, abs=0.01)
            assert [each.split("=")[0] for each in region["Extensions"]["Probabilities"]] == list(ATTRIBUTES)
        assert re.search(r"<faceattr:Weights [^>]*>[0-9a-f]{64}<", (photos / "a.png.xmp").read_text())

    def test_below_a_folder(self, weights, tmp_path):
        (tmp_path / "photos" / "sub").mkdir(parents=True)
        draw_photo([]).save(tmp_path / "photos" / "sub" / "a.png")
        arguments = ["predict", str(tmp_path / "photos"), "--weights", str(weights), "--quiet", "--xmp"]
        assert main([*arguments, str(tmp_path / "out")]) == 0
        assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.xmp")] == ["out/sub/a.png.xmp"]
