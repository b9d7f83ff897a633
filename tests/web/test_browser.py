"""The page in a real browser: keys, undo, reload, two people, a server that dies, a phone."""

import os
import shutil

import pytest
from web.served import start

from palate.data.dataset import PreferenceDataset
from palate.data.store import live_votes, open_store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)"),
]
KEYS = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"]
ANSWERS = dict(zip(KEYS, ["left", "right", "tie", "skip"], strict=True))
PATIENCE = 60_000  # milliseconds: the machine may be busy


@pytest.fixture(scope="module")
def chromium():
    api = pytest.importorskip("playwright.sync_api", reason="no playwright here (pip install palate[dev])")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"] if os.getuid() == 0 else []
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Open a link as another person on another device; every error in the page fails the test at its end."""
    pages, errors = [], []

    def open_(link: str, **device):
        page = chromium.new_context(**device).new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if "Content Security Policy" in said.text else None)
        page.on(
            "request", lambda asked: None if asked.url.startswith(("blob:", link[:16])) else errors.append(asked.url)
        )
        page.goto(link)
        pages.append(page)
        return page

    yield open_
    for page in pages:
        page.context.close()
    assert not errors


@pytest.fixture
def server(unlabelled, tmp_path):
    server = start(
        unlabelled.path, "--port", "0", "--raters", "ana,bo", "--repeats", "0", "--shared", "0", log=tmp_path / "log"
    )
    yield server
    if server.process.poll() is None:
        server.kill()


def press(page, key: str) -> int:
    """Wait for a pair, answer it, and return its number."""
    number = shown(page)
    page.keyboard.press(key)
    moved(page, number)
    return number


def shown(page) -> int:
    page.wait_for_selector("#left img")
    page.wait_for_selector("#tie:enabled")
    return int(page.evaluate("document.body.dataset.number"))


def moved(page, number: int | str) -> None:
    """Wait until another pair is on screen, or none is left."""
    page.wait_for_selector(f"body:not([data-number='{number}']), #message:not([hidden])")


def stored(page) -> None:
    page.wait_for_selector("body[data-waiting='0']")


def votes_of(dataset: PreferenceDataset, name: str) -> dict[int, str]:
    """What a person said by view: left, right, tie, skip."""
    engine = open_store(f"sqlite:///{dataset.path / 'votes.sqlite'}")
    told = {}
    for vote in live_votes(engine):
        if vote["rater"] == name:
            sides = {vote["order_shown"][0]: "left", vote["order_shown"][1]: "right"}
            told[vote["number"]] = sides.get(vote["choice"], vote["choice"])
    engine.dispose()
    return told


def votes_in(dataset: PreferenceDataset) -> list[dict]:
    engine = open_store(f"sqlite:///{dataset.path / 'votes.sqlite'}")
    votes = live_votes(engine)
    engine.dispose()
    return votes


def test_twenty_pairs_by_keyboard_with_undo_and_a_reload_in_the_middle(server, unlabelled, visit):
    page = visit(server.links["ana"])
    said = {}
    for n in range(8):
        key = KEYS[n % 4]
        said[press(page, key)] = ANSWERS[key]
    number = shown(page)
    page.keyboard.press("Backspace")  # the last one was a skip: let it be a tie
    moved(page, number)
    assert shown(page) == 7 and "Undone" in page.text_content("#spoken")
    said[press(page, "ArrowUp")] = "tie"
    stored(page)
    page.reload()
    assert shown(page) == 8
    page.keyboard.press("Backspace")  # a vote from before the reload can be taken back too
    page.wait_for_selector("body[data-number='7']")
    said[press(page, "ArrowRight")] = "right"
    for n in range(8, 20):
        key = KEYS[n % 4]
        said[press(page, key)] = ANSWERS[key]
    stored(page)
    assert votes_of(unlabelled, "ana") == said and list(said) == list(range(20))
    page.reload()
    assert shown(page) == 20 and page.text_content("#facts") == "20 of 30 pairs · 20 votes by you"


def test_the_picture_on_the_left_is_the_one_that_a_left_vote_prefers(server, unlabelled, visit):
    page = visit(server.links["ana"])
    prompt = page.text_content("#prompt") if shown(page) == 0 else None
    bytes_ = page.evaluate(
        "async () => Array.from(new Uint8Array(await (await fetch('/api/pictures/0/left', {headers: {authorization: 'Bearer ' + location.hash.slice(1)}})).arrayBuffer()))"
    )
    size = page.evaluate(
        "[document.querySelector('#left img').naturalWidth, document.querySelector('#left img').naturalHeight]"
    )
    press(page, "ArrowLeft")
    stored(page)
    engine = open_store(f"sqlite:///{unlabelled.path / 'votes.sqlite'}")
    vote = live_votes(engine)[0]
    pair = next(
        row for batch in unlabelled.iter_pairs() for row in batch.to_pylist() if row["pair_id"] == vote["pair_id"]
    )
    assert pair[f"image_{vote['choice']}"]["bytes"] == bytes(bytes_)
    assert prompt == pair["prompt"] and size == [12, 8] and vote["seconds"] > 0


def test_two_people_at_once_get_different_pairs_and_finish_the_work(server, unlabelled, visit):
    pages = {name: visit(server.links[name]) for name in ("ana", "bo")}
    for _ in range(5):
        for page in pages.values():
            press(page, "ArrowRight")
    for page in pages.values():
        while page.evaluate("document.getElementById('message').hidden"):
            press(page, "ArrowLeft")
        stored(page)
        assert "Done, thank you" in page.text_content("#headline")
        assert page.is_disabled("#tie") and page.is_enabled("#undo")
    engine = open_store(f"sqlite:///{unlabelled.path / 'votes.sqlite'}")
    votes = live_votes(engine)
    assert sorted(vote["pair_id"] for vote in votes) == sorted(unlabelled.pair_ids())
    assert {vote["rater"] for vote in votes} == {"ana", "bo"}
    overview = visit(server.links["overview"])
    overview.wait_for_selector("#people tr:nth-child(2)")
    assert "All 30 pairs are answered" in overview.text_content("#answer")
    assert {overview.text_content(f"#people tr:nth-child({n}) th") for n in (1, 2)} == {"ana", "bo"}


def test_the_overview_shows_who_is_right_where_the_answer_is_known(unlabelled, pair, tmp_path, visit):
    easy = PreferenceDataset.create(tmp_path / "easy", name="easy")
    easy.add_pairs(pair(f"e{i}") for i in range(20))
    easy.append_votes(
        {"pair_id": f"e{i}", "annotator_id": "owner", "source": "human", "choice": "0"} for i in range(20)
    )
    options = ("--port", "0", "--raters", "ana,bo", "--repeats", "0", "--shared", "0", "--known", str(easy.path))
    server = start(unlabelled.path, *options, "--known-share", "0.5", log=tmp_path / "log")
    try:
        assert "20 pairs with a known answer" in server.log.read_text()
        page, overview = visit(server.links["ana"]), visit(server.links["overview"])
        overview.wait_for_selector("#people tr:nth-child(2)")
        assert overview.is_hidden("#known")
        for _ in range(12):
            press(page, "ArrowUp")
        stored(page)
        asked = sum(vote["answer"] is not None for vote in votes_in(unlabelled))
        assert 2 <= asked <= 10 and "12 votes by you" in page.text_content("#facts")
        overview.wait_for_selector("#known:not([hidden])")
        assert f"n {asked}" in overview.text_content("#people tr:nth-child(1) td:last-child")
        assert overview.text_content("#people tr:nth-child(1) td:last-child").startswith("0 %")  # a tie is wrong
    finally:
        server.kill()


def test_votes_given_while_the_server_is_gone_wait_and_arrive(server, unlabelled, visit, tmp_path):
    page = visit(server.links["ana"])
    press(page, "ArrowLeft")
    stored(page)
    page.wait_for_timeout(500)  # pictures ahead are loaded
    server.kill()
    said = {0: "left"}
    for key in ("ArrowRight", "ArrowUp"):
        said[press(page, key)] = ANSWERS[key]
    page.wait_for_selector("#saving.late")
    assert "until the server answers" in page.text_content("#saving")
    assert votes_of(unlabelled, "ana") == {0: "left"}
    port = server.address.rpartition(":")[2]
    again = start(
        unlabelled.path, "--port", port, "--raters", "ana,bo", "--repeats", "0", "--shared", "0", log=tmp_path / "log"
    )
    try:
        stored(page)
        assert votes_of(unlabelled, "ana") == said
        assert shown(page) == 3
    finally:
        again.kill()


def test_votes_that_waited_survive_a_closed_tab(server, unlabelled, chromium, tmp_path):
    context = chromium.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(server.links["ana"])
    shown(page)
    page.wait_for_timeout(500)
    server.kill()
    press(page, "ArrowUp")
    page.wait_for_selector("#saving.late")
    page.close()
    port = server.address.rpartition(":")[2]
    again = start(
        unlabelled.path, "--port", port, "--raters", "ana,bo", "--repeats", "0", "--shared", "0", log=tmp_path / "log"
    )
    try:
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(server.links["ana"])
        assert shown(page) == 1
        stored(page)
        assert votes_of(unlabelled, "ana") == {0: "tie"}
    finally:
        context.close()
        again.kill()


def test_a_phone_votes_by_taps_and_everything_is_in_view(server, unlabelled, visit):
    page = visit(
        server.links["bo"], viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, color_scheme="dark"
    )
    shown(page)
    for selector in ("#left img", "#right img", "#tie", "#skip", "#undo", "#choose-left", "#choose-right", "#facts"):
        box = page.locator(selector).bounding_box()
        assert box["x"] >= 0 and box["y"] >= 0 and box["x"] + box["width"] <= 390 and box["y"] + box["height"] <= 844, (
            selector
        )
    assert page.locator("#left").bounding_box()["y"] < page.locator("#right").bounding_box()["y"]
    assert page.text_content("#choose-left span") == "Upper"
    assert min(page.locator("#tie").bounding_box()[side] for side in ("width", "height")) >= 44  # a thumb's size
    for selector, answer in (("#right", "right"), ("#left", "left"), ("#tie", "tie"), ("#choose-right", "right")):
        number = shown(page)
        page.tap(selector)
        moved(page, number)
        stored(page)
        assert votes_of(unlabelled, "bo")[number] == answer
    page.tap("#undo")
    page.wait_for_selector("body[data-number='3']")
    stored(page)
    assert 3 not in votes_of(unlabelled, "bo")


def test_two_questions_are_asked_one_after_another_while_the_pictures_stay(unlabelled, tmp_path, visit):
    wordings = {
        "alignment: Which fits?": "Which fits?",
        "aesthetics": "Which picture looks better, whatever the prompt says?",
    }
    options = ("--port", "0", "--raters", "ana", "--repeats", "0", "--shared", "0", "--question", *wordings)
    server = start(unlabelled.path, *options, log=tmp_path / "log")
    try:
        page = visit(server.links["ana"])
        asked, prompts = [], []
        for _ in range(4):
            shown(page)
            asked.append(page.text_content("#question"))
            prompts.append(page.text_content("#prompt"))
            press(page, "ArrowLeft")
        stored(page)
        assert set(asked[:2]) == set(asked[2:]) == set(wordings.values()) and asked[1] in page.text_content("body")
        assert prompts[0] == prompts[1] != prompts[2] == prompts[3]
        page.keyboard.press("Backspace")  # the question comes back with its pair
        page.wait_for_selector("body[data-number='3']")
        assert page.text_content("#question") == asked[3]
    finally:
        server.kill()
    said = {(vote["pair_id"], vote["question"]) for vote in votes_in(unlabelled)}
    assert len(said) == 3 and {question for _, question in said} == {"alignment", "aesthetics"}


def test_a_prompt_is_text_whatever_is_in_it(pair, tmp_path, visit):
    prompt = (
        "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script> & \u202e\u00e9\u732b"
    )
    dataset = PreferenceDataset.create(tmp_path / "markup", name="markup")
    dataset.add_pairs([pair("a", prompt=prompt)])
    server = start(dataset.path, "--port", "0", "--raters", "ana", log=tmp_path / "log")
    try:
        page = visit(server.links["ana"])
        shown(page)
        assert page.text_content("#prompt") == prompt
        assert page.locator("#prompt *").count() == 0 and page.title() == "palate label"
    finally:
        server.kill()


def test_a_screen_reader_finds_names_and_hears_what_happens(server, visit):
    page = visit(server.links["ana"])
    shown(page)
    for name in ("The left picture is better", "The right picture is better", "Tie", "Skip", "Undo"):
        assert page.get_by_role("button", name=name).count() == 1, name
    assert page.get_by_role("progressbar", name="Pairs with a vote").count() == 1
    assert page.get_by_role("heading", level=1).text_content() == page.text_content("#prompt")
    assert page.locator("[role=status][aria-live=polite]").count() == 1
    press(page, "ArrowUp")
    assert page.text_content("#spoken") == f"Tie. Next: {page.text_content('#prompt')}"
    page.locator("#skip").focus()
    number = shown(page)
    page.keyboard.press("Enter")
    moved(page, number)
    assert page.text_content("#spoken").startswith("Skipped.")


def test_a_key_that_is_held_votes_once_and_shortcuts_of_the_browser_do_not_vote(server, unlabelled, visit):
    page = visit(server.links["ana"])
    shown(page)
    page.keyboard.down("ArrowLeft")
    for _ in range(5):
        page.keyboard.down("ArrowLeft")  # a repeat
    page.keyboard.up("ArrowLeft")
    page.keyboard.press("Control+ArrowRight")
    page.keyboard.press("Alt+ArrowUp")
    page.keyboard.press("x")
    page.wait_for_selector("body[data-number='1']")
    stored(page)
    assert votes_of(unlabelled, "ana") == {0: "left"}


def test_a_link_that_does_not_work_says_so(server, visit):
    page = visit(server.links["ana"][:-5])
    page.wait_for_selector("#message:not([hidden])")
    assert page.text_content("#headline") == "This link does not work"
    assert "Copy all of it" in page.text_content("#detail") and page.is_hidden("#answers")
    other = visit(server.links["overview"].replace("/overview", "/"))
    other.wait_for_selector("#message:not([hidden])")
    assert "rater's link" in other.text_content("#detail")


def test_a_pair_whose_picture_is_gone_can_only_be_skipped(pair, tmp_path, visit):
    dataset = PreferenceDataset.create(tmp_path / "half", name="half")
    dataset.add_pairs([pair("a"), pair("b", image_1={"path": "gone.png"})])
    server = start(dataset.path, "--port", "0", "--raters", "ana", "--repeats", "0", log=tmp_path / "log")
    try:
        page = visit(server.links["ana"])
        for _ in range(2):
            page.wait_for_selector("#tie:enabled")
            broken = page.locator(".picture span").count() > 0
            if broken:
                number = page.evaluate("document.body.dataset.number")
                page.keyboard.press("ArrowLeft")
                assert "Skip the pair" in page.text_content("#spoken")
                assert page.evaluate("document.body.dataset.number") == number
            before = page.evaluate("document.body.dataset.number")
            page.keyboard.press("ArrowDown" if broken else "ArrowUp")
            moved(page, before)
        stored(page)
        assert sorted(votes_of(dataset, "ana").values()) == ["skip", "tie"]
    finally:
        server.kill()
