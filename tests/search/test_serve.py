"""The page: to whom it answers, and what a real browser makes of it."""

import http.client
import json
import shutil
import sqlite3

import pytest
from browser import CHROMEDRIVER, CHROMIUM, MISSING, browser
from PIL import Image
from serving import serving
from small_checkpoint import ATTRIBUTES, DISCS, NEUTRAL, SMILING, draw_photo

import faceattr
from faceattr.ages import LIMITS
from faceattr.cli import main
from faceattr.pipeline import Face, Prediction
from faceattr.search.index import Index, _row, _Task
from faceattr.search.serve import is_loopback

HOSTILE = '<img src=x onerror="document.title=1">.png'


@pytest.fixture(scope="module")
def collection(tmp_path_factory, weights):
    """The index of a.png (both faces), b.png (none), sub/c.png (a smile), one with a hostile name and a linked one."""
    folder = tmp_path_factory.mktemp("collection")
    (folder / "photos" / "sub").mkdir(parents=True)
    draw_photo(DISCS).save(folder / "photos" / "a.png")
    draw_photo([]).save(folder / "photos" / "b.png")
    draw_photo([(200, 100, 32, SMILING)]).save(folder / "photos" / "sub" / "c.png")
    draw_photo([(60, 60, 32, SMILING)], (120, 300)).save(folder / "photos" / HOSTILE)
    draw_photo([(90, 120, 32, NEUTRAL)]).save(folder / "outside.png")
    (folder / "photos" / "link.png").symlink_to(folder / "outside.png")
    with Index(folder / "db") as index:
        for _ in index.update(faceattr.load(weights, device="cpu"), [folder / "photos"]):
            pass
    return folder


@pytest.fixture(scope="module")
def server(collection, weights):
    with serving(collection / "db", weights) as made:
        yield made


@pytest.fixture(scope="module")
def aged_server(collection, aged_weights, tmp_path_factory):
    """Serves the index of a.png with ages: 35, and 45 of who smiles."""
    folder = tmp_path_factory.mktemp("aged")
    with Index(folder / "db") as index:
        model = faceattr.load(aged_weights, device="cpu")
        for _ in index.update(model, [collection / "photos" / "a.png"]):
            pass
    with serving(folder / "db", aged_weights) as made:
        yield made


def ask(server, path, method="GET", body=None, **headers):
    """Status, headers and content of an answer; headers are given with _ for -."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def ids(server, query=""):
    content = ask(server, f"/api/search?q={query}&order=path")[2]
    return {photo["name"]: photo["id"] for photo in json.loads(content)["photos"]}


class TestAnswers:
    def test_search(self, server):
        status, headers, content = ask(server, "/api/search?q=Smiling&order=path")
        answer = json.loads(content)
        assert status == 200 and answer["total"] == 3 and headers["Cache-Control"] == "no-store"
        assert [photo["name"] for photo in answer["photos"]] == [HOSTILE, "a.png", "sub/c.png"]
        faces = answer["photos"][1]["faces"]
        assert len(faces) == 2 and sorted(face["fits"] for face in faces) == [False, True]
        assert set(faces[0]["attributes"]) == set(ATTRIBUTES)
        assert json.loads(ask(server, "/api/search?offset=4&order=path")[2])["photos"][0]["name"] == "sub/c.png"
        assert json.loads(ask(server, "/api/search?name=SUB")[2])["total"] == 1
        assert json.loads(ask(server, "/api/about")[2])["attributes"] == list(ATTRIBUTES)
        counts = {"Smiling": 1, "Frowning": 1, "Present": 0}
        assert json.loads(ask(server, "/api/histogram?q=faces=2")[2]) == {"attributes": counts, "ages": {}}

    def test_pictures(self, server, collection):
        photo = ids(server)["a.png"]
        for kind, size in (("thumbnail", (256, 192)), ("photo", (320, 240))):
            status, headers, content = ask(server, f"/{kind}/{photo}")
            assert status == 200 and headers["Content-Type"] == "image/jpeg"
            path = collection / "got.jpg"
            path.write_bytes(content)
            with Image.open(path) as image:
                assert image.size == size
        status, headers, content = ask(server, f"/regions/{photo}/1")
        assert (status, headers["Content-Type"], content[:4]) == (200, "image/png", b"\x89PNG")

    def test_try(self, server, collection):
        data = (collection / "outside.png").read_bytes()
        status, _, content = ask(server, "/try", "POST", data)
        answer = json.loads(content)
        assert status == 200 and (answer["width"], answer["height"]) == (320, 240)
        assert [face["labels"] for face in answer["faces"]] == [["Frowning"]]
        status, _, content = ask(server, "/try", "POST", b"this is text")
        assert status == 400 and b"not a picture" in content

    def test_ages(self, aged_server):
        (photo,) = json.loads(ask(aged_server, "/api/search?q=age%3C40")[2])["photos"]
        ages = {face["fits"]: face["age"] for face in photo["faces"]}
        assert ages[True] == {"years": 35.0, "low": 31.0, "high": 39.0} and ages[False]["years"] == 45.0
        of_all, of_smiles = (json.loads(ask(aged_server, f"/api/histogram?q={q}")[2])["ages"] for q in ("", "Smiling"))
        assert set(of_all) == {"0", *map(str, LIMITS)} and sum(of_all.values()) == 2
        assert (of_all["30"], of_all["40"], of_smiles["30"], of_smiles["40"]) == (1, 1, 0, 1)

    def test_regions_follow_the_framing_of_the_index(self, collection, weights, tmp_path, monkeypatch):
        """Whatever weights explain: where frames lie on an aligned picture is told by those that found them."""
        asked = []
        from faceattr.explain import regions

        explain_face = regions.explain_face
        monkeypatch.setattr(regions, "explain_face", lambda *given: asked.append(given[2]) or explain_face(*given))
        shutil.copy(collection / "db", tmp_path / "db")
        db = sqlite3.connect(tmp_path / "db")
        # As if by weights whose box is half as high and wide, about the same middle.
        db.execute("UPDATE models SET aligned_box = ?", [json.dumps([63.65, 82.7, 114.35, 152.7])])
        db.commit()
        db.close()
        for path in (collection / "db", tmp_path / "db"):
            with serving(path, weights) as server:
                assert ask(server, f"/regions/{ids(server)['a.png']}/1")[0] == 200
        (x0, y0, x1, y1), wide = asked
        assert wide == pytest.approx([x0 - (x1 - x0) / 2, y0 - (y1 - y0) / 2, x1 + (x1 - x0) / 2, y1 + (y1 - y0) / 2])

    @pytest.mark.parametrize(
        ("path", "status", "message"),
        [
            ("/api/search?q=Smilling", 400, "choose from Smiling"),
            ("/api/search?q=age%3C30", 400, "no face of this index has an age"),
            ("/api/search?order=size", 400, "order: one of"),
            ("/api/search?offset=-1", 400, "a number is needed"),
            ("/api/nothing", 404, "no such page"),
            ("/thumbnail/99999", 404, "no such photo"),
            ("/photo/1e9", 400, "a number is needed"),
            ("/regions/1/99", 404, "no such face"),
        ],
    )
    def test_errors(self, server, path, status, message):
        got, _, content = ask(server, path)
        assert got == status and message in content.decode()

    def test_headers(self, server):
        status, headers, content = ask(server, "/")
        assert status == 200 and content.startswith(b"<!DOCTYPE html>")
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in headers


class TestRefused:
    @pytest.mark.parametrize(
        "path",
        ["/../../etc/passwd", "/photo/../../etc/passwd", "/photo/%2e%2e%2fetc%2fpasswd", "//etc/passwd", "/etc/passwd",
         "/thumbnail//etc/passwd", "/photo/1%00", "/page.html", "/serve.py", "/photo/ 1"],
    )  # fmt: skip
    def test_other_files(self, server, path):
        status, _, content = ask(server, path.replace(" ", "%20"))
        assert status in (400, 404) and b"root:" not in content

    def test_links_out_of_the_collection(self, server):
        photo = ids(server)["link.png"]
        assert ask(server, f"/photo/{photo}")[0] == 403 and ask(server, f"/regions/{photo}/1")[0] == 403

    def test_a_photo_that_became_a_link(self, collection, weights, tmp_path):
        shutil.copytree(collection / "photos", tmp_path / "photos", symlinks=True)
        with Index(tmp_path / "db") as index:
            for _ in index.update(faceattr.load(weights, device="cpu"), [tmp_path / "photos"]):
                pass
        (tmp_path / "photos" / "a.png").unlink()
        (tmp_path / "photos" / "a.png").symlink_to("/etc/passwd")
        with serving(tmp_path / "db", weights) as server:
            assert ask(server, f"/photo/{ids(server)['a.png']}")[0] == 403

    @pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "192.168.1.7", "", "localhost.evil.example"])
    def test_names_of_other_machines(self, server, host):
        status, _, content = ask(server, "/api/search", Host=host)
        assert status == 403 and b"names of this machine alone" in content

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8765", "[::1]:8765", "LOCALHOST:1"])
    def test_names_of_this_machine(self, server, host):
        assert ask(server, "/api/search", Host=host)[0] == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"},
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://localhost:3000"},
        ],
    )
    def test_other_sites(self, server, headers):
        photo = ids(server)["a.png"]
        for path, method in (("/api/search", "GET"), (f"/thumbnail/{photo}", "GET"), ("/try", "POST")):
            assert ask(server, path, method, b"" if method == "POST" else None, **headers)[0] == 403

    def test_a_link_on_another_site_may_be_followed(self, server):
        link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
        assert ask(server, "/", **link)[0] == 200
        assert ask(server, "/api/search", **link)[0] == 403
        assert ask(server, "/", **{**link, "Sec_Fetch_Dest": "iframe"})[0] == 403

    def test_uploads(self, server):
        assert ask(server, "/try", "POST", None, Content_Length=str(10**12))[0] == 413
        assert ask(server, "/try", "POST", None, Content_Length="many")[0] in (400, 411)
        assert ask(server, "/", "PUT", b"")[0] == 501

    def test_token(self, collection, weights):
        with serving(collection / "db", weights, token="secret") as server:
            assert server.url.endswith("/?token=secret")
            assert ask(server, "/")[0] == 401 and ask(server, "/?token=secreT")[0] == 401
            status, headers, _ = ask(server, "/?token=secret")
            cookie = headers["Set-Cookie"]
            assert status == 200 and "HttpOnly" in cookie and "SameSite=Strict" in cookie
            assert ask(server, "/api/search", Cookie=cookie.split(";")[0])[0] == 200
            assert ask(server, "/api/search", Cookie="faceattr-token=other")[0] == 401

    def test_elsewhere_a_token_is_needed(self, collection, weights):
        with (
            pytest.raises(ValueError, match="0.0.0.0: a token is needed"),
            serving(collection / "db", weights, "0.0.0.0"),
        ):
            pass
        with serving(collection / "db", weights, "0.0.0.0", "secret") as server:
            assert ask(server, "/", Host="my.machine")[0] == 401
            assert ask(server, "/?token=secret", Host="my.machine")[0] == 200

    def test_loopback(self):
        assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]")))
        assert not any(map(is_loopback, ("", "0.0.0.0", "::", "example.org", "127.0.0.1.example.org", "10.0.0.1")))

    def test_what_cannot_start(self, collection, weights, capsys):
        db = str(collection / "db")
        with serving(collection / "db", weights) as server:
            assert main(["serve", db, "--port", str(server.server_address[1])]) == 2
        assert "cannot listen (Address already in use)" in capsys.readouterr().err
        assert main(["serve", db, "--port", "99999"]) == 2 and main(["serve", db, "--token", "a b"]) == 2
        assert main(["serve", db + "x"]) == 2


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if not (CHROMIUM and CHROMEDRIVER):
        pytest.skip(MISSING)
    with browser(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture
def page(chromium, server):
    chromium.resize(1200, 800)
    chromium.dark(False)
    chromium.open(server.url)
    chromium.wait("return document.getElementById('rows').children.length && document.images.length")
    yield chromium
    assert [line for line in chromium.logs() if "400" not in line] == []


def shown(page):
    return page.run("return [...document.querySelectorAll('.card')].map((card) => card.title)")


def query(page, text):
    page.run("const box = document.getElementById('query'); box.value = arguments[0]; box.focus();", text)
    page.press("Enter")
    page.wait("return !document.getElementById('message').dataset.old && !loading && turn")


STATUS = "return document.getElementById('message').textContent"
FOCUSED = "return document.activeElement.title === arguments[0]"
OPENED = """const of = (id) => document.getElementById(id);
return of("dialog").open && of("title").textContent === arguments[0]"""


class TestBrowser:
    def test_all_photos_at_first(self, page):
        assert sorted(shown(page)) == sorted(["b.png", HOSTILE, "a.png", "link.png", "sub/c.png"])
        assert page.run(STATUS) == "5 photos" and page.run("return document.title") == "Faces"
        page.wait("return [...document.images].every((image) => image.naturalWidth > 0)")
        left, width = page.run(
            "const card = [...document.querySelectorAll('.card')].find((each) => each.title === 'sub/c.png');"
            "const outer = card.querySelector('img').getBoundingClientRect();"
            "const inner = card.querySelector('.box').getBoundingClientRect();"
            "return [(inner.x - outer.x) / outer.width, inner.width / outer.width]"
        )
        assert left < 200 / 320 < left + width and 0.07 < width < 0.15

    def test_queries(self, page):
        query(page, "Smiling and faces=2")
        page.wait(STATUS + " === '1 photo'")
        assert shown(page) == ["a.png"] and page.run("return document.querySelectorAll('.box.fits').length") == 1
        query(page, "Smilling")
        page.wait("return document.getElementById('message').className === 'wrong'")
        assert "choose from Smiling" in page.run(STATUS) and shown(page) == []
        query(page, "faces=0")
        page.wait(STATUS + " === '1 photo'")
        assert shown(page) == ["b.png"]

    def test_ages(self, page, aged_server):
        page.open(aged_server.url)
        page.wait("return document.images.length")
        query(page, "age>40")
        page.wait(STATUS + " === '1 photo'")
        page.run("document.querySelector('.card').click()")
        page.wait("return document.querySelectorAll('.face').length === 2")
        faces = page.run("return [...document.querySelectorAll('.face')].map((face) => face.textContent)")
        assert sorted("age 45 (41 to 49)" in text for text in faces) == [False, True]
        assert sum("age 35 (31 to 39)" in text for text in faces) == 1
        page.run("document.getElementById('dialog').close()")
        # The group of ages takes the place of what was asked for, and another that of the group.
        query(page, "Smiling and age>40 and faces=2")
        for key, count in (("age>=40 and age<50", 1), ("age>=30 and age<40", 0), ("age>=70", 0)):
            page.wait(f"return document.querySelector('[data-key=\"{key}\"]')")
            page.run('document.querySelector(`[data-key="${arguments[0]}"]`).click()', key)
            page.wait(STATUS + f" === '{count} photo{'s' * (count != 1)}'")
            assert page.run("return document.getElementById('query').value") == f"Smiling and faces=2 and {key}"
            pressed = f"return document.querySelector('[data-key=\"{key}\"]')?.getAttribute('aria-pressed') === 'true'"
            page.wait(pressed)
        page.run("document.querySelector('[data-key=\"age>=70\"]').click()")
        page.wait(STATUS + " === '1 photo'")
        assert page.run("return document.getElementById('query').value") == "Smiling and faces=2"

    def test_filters_by_buttons(self, page):
        click = 'document.querySelector(`[data-key="${arguments[0]}"]`).click()'
        page.run(click, "Smiling")
        page.wait(STATUS + " === '3 photos'")
        page.wait("return document.querySelector('[data-key=Smiling]').getAttribute('aria-pressed') === 'true'")
        counts = page.run("return [...document.querySelectorAll('.row')].map((row) => row.lastChild.textContent)")
        assert counts == ["3", "0", "0"]
        page.run(click, "not Present")
        page.wait("return document.querySelector('[data-key=\"not Present\"]').getAttribute('aria-pressed') === 'true'")
        assert page.run("return document.getElementById('query').value") == "Smiling and not Present"
        page.run(click, "not Smiling")  # the other way round
        page.wait(STATUS + " === '2 photos'")
        assert page.run("return document.getElementById('query').value") == "not Present and not Smiling"

    def test_keyboard(self, page):
        page.run("document.activeElement.blur()")
        page.press("/")
        assert page.run("return document.activeElement.id") == "query"
        query(page, "Smiling")
        page.wait(STATUS + " === '3 photos'")
        page.run("document.activeElement.blur()")
        page.press("Down")
        names = shown(page)
        page.wait(FOCUSED, names[0])
        page.press("Right")
        page.wait(FOCUSED, names[1])
        page.press("Enter")
        page.wait(OPENED, names[1])
        page.press("Right")
        page.wait(OPENED, names[2])
        page.press("Left", "Left")
        page.wait(OPENED, names[0])
        page.press("Escape")
        page.wait("return !document.getElementById('dialog').open")
        page.wait(FOCUSED, names[0])  # a dialog's `close` is an event of its own, some time after

    def test_details_and_why(self, page):
        query(page, "Smiling and faces=2")
        page.wait(STATUS + " === '1 photo'")
        page.run("document.querySelector('.card').click()")
        page.wait("return document.querySelector('#large img').naturalWidth === 320")
        assert page.run("return document.querySelectorAll('#faces .face').length") == 2
        assert page.run("return document.querySelectorAll('#large .box').length") == 2
        page.run("document.querySelector('.why-button').click()")
        page.wait("return document.querySelector('.why')?.naturalWidth > 0")

    def test_a_dropped_photo(self, page, collection):
        import base64

        data = base64.b64encode((collection / "outside.png").read_bytes()).decode()
        drop = """
            const bytes = Uint8Array.from(atob(arguments[0]), (each) => each.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], arguments[1]));
            const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
            document.body.dispatchEvent(new DragEvent("drop", options));
        """
        page.run(drop, data, HOSTILE)
        assert page.wait(STATUS + " === '1 face' && document.getElementById('title').textContent") == HOSTILE
        assert "Frowning" in page.run("return document.querySelector('#faces .chip').textContent")
        page.wait("return document.querySelector('#large img').naturalWidth === 320")
        page.press("Escape")
        page.run(drop, base64.b64encode(b"this is text").decode(), "text.png")
        page.wait("return document.getElementById('message').className === 'wrong'")
        assert "text.png: not a picture" in page.run(STATUS)

    def test_narrow(self, page):
        page.resize(360, 700)
        page.open(page.run("return location.href"))
        page.wait("return document.getElementById('rows').children.length && document.images.length === 5")
        assert page.run("return document.documentElement.scrollWidth") <= 360
        assert page.run("return document.getElementById('panel').open") is False  # the photos come first
        page.run("document.querySelector('.card[title=\"a.png\"]').click()")
        page.wait("return document.querySelector('#large img')?.naturalWidth")
        assert page.run("return document.documentElement.scrollWidth") <= 360

    def test_a_photo_that_may_not_be_shown(self, page):
        page.run("document.querySelector('.card[title=\"link.png\"]').click()")
        assert "links out of the folders" in page.wait("return document.querySelector('#large p')?.textContent")
        assert any("403" in line for line in page.logs())

    def test_dark(self, page):
        def lightness(property):
            text = page.run(f"return getComputedStyle(document.body).{property}")
            return sum(map(float, text[text.index("(") + 1 : -1].split(",")[:3]))

        assert lightness("backgroundColor") > 3 * 200 > lightness("color")
        page.dark(True)
        assert lightness("backgroundColor") < 3 * 60 and lightness("color") > 3 * 200


@pytest.mark.slow
def test_five_thousand_photos_are_scrolled_through(chromium, weights, tmp_path):
    """Scrolling to the end of 5,000 photos: all are loaded on the way, and frames keep coming."""
    thumbnail = Image.new("RGB", (160, 120), "grey")
    path = tmp_path / "photo.png"
    thumbnail.save(path)
    model = faceattr.load(weights, device="cpu")
    faces = [Face((10, 10, 60, 60), 0.9, dict.fromkeys(ATTRIBUTES, 0.5)), Face((80, 30, 120, 90), 0.8)]
    photo = faceattr.images.load_photo(path)
    with Index(tmp_path / "db") as index:
        current = index._add_model(model)
        prediction = Prediction("", 160, 120, faces, photo=photo)
        rows = [_row(_Task(f"/photos/{number:05}.jpg", 1, 1, b"x"), prediction) for number in range(5000)]
        index._write(rows, current)
    with serving(tmp_path / "db", weights) as server:
        chromium.resize(1200, 800)
        chromium.open(server.url)
        chromium.wait("return document.images.length >= 100")
        chromium.run("""
            window.gaps = []; let last = performance.now();
            const tick = (now) => {
              window.gaps.push(now - last);
              last = now;
              scrollBy(0, 400);
              requestAnimationFrame(tick);
            };
            requestAnimationFrame(tick);
        """)
        chromium.wait("return document.querySelectorAll('.card').length === 5000", seconds=180)
        gaps = sorted(chromium.run("return window.gaps"))
    half, most = gaps[len(gaps) // 2], gaps[int(0.9 * len(gaps))]
    print(f"{len(gaps)} frames; half within {half:.0f} ms, nine in ten within {most:.0f}")
    # How long they take depends on what else runs; a page that builds all at once would stop them.
    assert len(gaps) > 50
