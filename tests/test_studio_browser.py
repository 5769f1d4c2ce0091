"""The studio in a real browser: drop, read, correct, play, download; no request leaves the machine. `OMR_FIGURES=figures` takes the pictures of the chapter."""
import base64
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import mido
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine: apt-get install chromium")]
playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
FRONTS = ["voila", "lab"]
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required", "--mute-audio"]
PATIENCE = 1000 * int(os.environ.get("OMR_PATIENCE", 180))  # ms; the machine may be busy

# C. Petzold, Minuet in G (BWV Anh. 114), to the first double bar. In measure 6 a note is left out, as by a printer in a hurry.
UPPER = """4dd 8g 8a 8b 8cc = 4dd 4g 4g = 4ee 8cc 8dd 8ee 8ff# = 4gg 4g 4g = 4cc 8dd 8cc 8b 8a = 4b 8cc 8b 8a = 4f# 8g 8a 8b 8g = 2.a =
           4dd 8g 8a 8b 8cc = 4dd 4g 4g = 4ee 8cc 8dd 8ee 8ff# = 4gg 4g 4g = 4cc 8dd 8cc 8b 8a = 4b 8cc 8b 8a 8g = 4a 8b 8a 8g 8f# = 2.g =="""
LOWER = """2G 4A = 2.B = 2.c = 2.B = 2.A = 2.G = 4d 4B 4G = 4d 8D 8c 8B 8A = 2B 4A = 4G 4B 4G = 2.c = 4B 8c 8B 8A 8G = 2A 4F# = 2G 4B = 4c 4d 4D = 2.G =="""


def print_page(path):
    "Engrave the page in four systems and save it as a picture."
    from omr.reading.joining import columns, line_up, to_kern
    from omr.reading.playback import engrave_page
    from omr.scores.engraving import svg_to_image

    def staff(clef, words): return columns("\n".join(["**kern", clef, "*k[f#]", "*M3/4", *words.split(), "*-"]))
    lines, bars = to_kern(line_up([staff("*clefG2", UPPER), staff("*clefF4", LOWER)])).splitlines(), 0
    for i, line in enumerate(lines):
        bars += line.startswith("=")
        if line.startswith("=\t") and bars % 4 == 0: lines[i] += "\n!!linebreak:original"
    # The rest that fills the gap of measure 6 is not printed.
    svg = engrave_page("\n".join(lines).replace("8r", "8ryy") + "\n").svg
    width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())
    cv2.imwrite(str(path), svg_to_image(svg.replace("<svg ", f'<svg width="{2 * width}px" height="{2 * height}px" ', 1), 120))


def serve(front, folder):
    "The words that start a server in this process's environment, and where it will answer."
    with socket.create_server(("127.0.0.1", 0)) as s: port = s.getsockname()[1]
    home = f"http://127.0.0.1:{port}"
    start = f"from omr.reading.studio import studio_server; studio_server(port={port}, browser=False)"
    if front == "voila": return [sys.executable, "-c", start], home, "/", {}
    cell = {"cell_type": "code", "execution_count": None, "id": "a", "metadata": {}, "outputs": [],
            "source": "import omr\nomr.studio()"}
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    (folder / "nb.ipynb").write_text(json.dumps({"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    settings = {"apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False}, "notebook-extension/tracker": {"windowingMode": "none"}}
    for name, values in settings.items():
        at = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        at.parent.mkdir(parents=True), at.write_text(json.dumps(values))
    words = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
             "--IdentityProvider.token=t", "--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={folder}"]
    return words, home, "/lab/tree/nb.ipynb?token=t&reset", {f"JUPYTERLAB_{name.upper()}_DIR": str(folder / name) for name in ("settings", "workspaces")}


@pytest.fixture(params=FRONTS)
def desk(request, tmp_path):
    "A page of a browser that shows the studio, and what it asked of the world outside."
    words, home, way, more = serve(request.param, tmp_path)
    with open(tmp_path / "server.log", "w") as log: server = subprocess.Popen(words, cwd=tmp_path, env={**os.environ, **more}, stdout=log, stderr=log)
    outside = []

    def guard(route):
        if route.request.url.startswith((home, home.replace("http", "ws"), "blob:", "data:")): return route.continue_()
        outside.append(route.request.url), route.abort()

    try:
        for _ in range(600):
            try: socket.create_connection(home[7:].split(":"), timeout=1).close(); break
            except OSError: assert server.poll() is None, (tmp_path / "server.log").read_text()[-2000:]; time.sleep(.2)
        with playwright.sync_playwright() as p:
            browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_context(viewport=dict(width=1500, height=1300), accept_downloads=True).new_page()
            page.context.route("**/*", guard)
            page.set_default_timeout(PATIENCE)
            page.goto(home + way)
            if request.param == "lab":
                page.wait_for_function("window.jupyterapp?.shell.currentWidget?.context?.isReady")
                page.evaluate("async () => await jupyterapp.shell.currentWidget.sessionContext.ready")
                page.evaluate("async () => await jupyterapp.commands.execute('notebook:run-all-cells')")
            page.locator(".omr-ready").wait_for()
            yield page
            browser.close()
        assert outside == []
    finally: server.terminate(), server.wait(30)


DROP = """([name, data]) => {
  const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0)), files = new DataTransfer();
  files.items.add(new File([bytes], name, { type: "image/png" }));
  const all = { dataTransfer: files, bubbles: true, cancelable: true };
  for (const e of ["dragenter", "dragover", "drop"]) document.querySelector(".omr-studio").dispatchEvent(new DragEvent(e, all));
}"""
SOUND = """[...document.querySelectorAll('.omr-studio audio')].map(a =>
  [a.currentTime, a.paused, [...document.querySelectorAll('.omr-score .omr-sounds')].map(g => g.id)])[0]"""
INK = "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((v, i) => i % 4 === 0 && v < 100).length"


def picture(page, name):
    "A photograph for the chapter, with few colours, so that it stays small."
    lab, folder = "/lab/" in page.url, os.environ.get("OMR_FIGURES")
    if not folder or lab and name != "flag": return
    shot = Image.open(io.BytesIO(page.screenshot() if lab else page.locator(".omr-studio").screenshot()))
    shot.convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(Path(folder) / f"studio-{'lab' if lab else name}.png", optimize=True)


def drop(page, name, data): page.evaluate(DROP, [name, base64.b64encode(data).decode()])
def rev(page): return int(page.locator(".omr-studio").get_attribute("data-rev"))


def settled(page, before): page.wait_for_function("n => +document.querySelector('.omr-studio').dataset.rev > n", arg=before)


def downloaded(page, kind):
    with page.expect_download() as taken: page.locator(f".omr-get-{kind}").click()
    return Path(taken.value.path()).read_bytes()


def struck(midi, pitch):
    "The times [quarters] at which a pitch is struck."
    file, out = mido.MidiFile(file=io.BytesIO(midi)), []
    for track in file.tracks:
        now = 0
        for m in track:
            now += m.time
            if m.type == "note_on" and m.velocity and m.note == pitch: out.append(now / file.ticks_per_beat)
    return sorted(out)


def test_whole_way(desk, tmp_path):
    page = desk
    drop(page, "letter.png", b"Dear Sir, " * 250_000)  # three pieces, and no music
    page.locator(".omr-status:has-text('letter.png: not a page that can be opened')").wait_for()
    print_page(tmp_path / "minuet.png")
    drop(page, "minuet.png", (tmp_path / "minuet.png").read_bytes())
    page.locator(".omr-status:has-text('minuet.png: 16 measures')").wait_for()
    assert page.locator(".omr-system").count() == 4 and page.locator(".omr-measure").count() == 16
    page.locator(".omr-picture").evaluate("i => i.decode()")

    # The misprint is marked first, and shown without being looked for.
    assert page.locator(".omr-measure.omr-odd").first.get_attribute("data-n") == "6"
    assert page.locator(".omr-why").inner_text().startswith("measure 6: ")
    before = struck(downloaded(page, "midi"), 67)
    picture(page, "flag")

    # Both pictures of the measure are there: ink on the paper, and its notes, engraved.
    assert page.locator("canvas.omr-crop").evaluate(INK) > 200
    frame = page.locator(".omr-drawn").bounding_box()
    chosen = page.locator(".omr-score g.measure.omr-chosen").get_attribute("id")
    heads = [g.bounding_box() for g in page.locator(f'.omr-drawn g.measure[id="{chosen}"] g.notehead').all()]
    assert len(heads) == 5 and all(0 < b["x"] - frame["x"] < frame["width"] and 0 < b["y"] - frame["y"] < frame["height"] for b in heads)

    # A text that is no score changes nothing and says why.
    text, good = page.locator("textarea.omr-kern"), page.locator("textarea.omr-kern").input_value()
    text.fill(good.replace("8a", "8zz"))
    page.locator(".omr-problem:not(:empty)").wait_for()
    assert re.match(r"line \d: token '8zz", page.locator(".omr-problem").inner_text())

    # The missing note is typed; the page is engraved anew, and the flag is gone.
    at, lines = rev(page), good.splitlines()
    lines.insert(-1, ".  8g")
    text.fill("\n".join(line for line in lines if "8r" not in line))
    settled(page, at)
    assert page.locator('.omr-measure[data-n="6"].omr-seen').count() == 1 and page.locator('.omr-measure[data-n="6"].omr-odd').count() == 0

    # A click on a measure plays it; what sounds is what the score says.
    page.locator('.omr-measure[data-n="6"]').click()
    page.wait_for_function(f"() => {{ const s = {SOUND}; return s[0] > 7.6 && !s[1] && s[2].length }}")
    t, _, ids = page.evaluate(SOUND)
    assert 7.5 <= t < 9.1 and all(i.startswith("note-L") for i in ids)
    picture(page, "play")
    page.wait_for_function(f"() => {SOUND}[1]")  # and stops at its end
    assert page.evaluate(SOUND)[0] < 9.4

    # The file has the note.
    after = struck(downloaded(page, "midi"), 67)
    assert sorted(set(after) - set(before)) == [17.5]
    assert json.loads(downloaded(page, "log"))[0]["measure"] == 6
    assert b"<score-partwise" in downloaded(page, "musicxml") and downloaded(page, "kern").startswith(b"**kern")

    # A click near a note finds its line in the text; keys go through the flags.
    head = page.locator(".omr-score g.measure").nth(4).locator("g.notehead").nth(4).bounding_box()
    page.mouse.click(head["x"] + head["width"] / 2 + 2, head["y"] + head["height"] / 2)
    page.locator('.omr-measure[data-n="5"].omr-chosen').wait_for()
    assert text.evaluate("t => t.value.slice(t.selectionStart, t.selectionEnd).split(/ +/)") == [".", "8a"]
    flagged = page.locator(".omr-measure.omr-low").count()
    if flagged:
        page.keyboard.press("n")
        page.locator(".omr-measure.omr-low.omr-chosen").wait_for()

    # Undo brings the flag back.
    at = rev(page)
    page.locator(".omr-undo").click()
    settled(page, at)
    assert page.locator('.omr-measure[data-n="6"].omr-odd').count() == 1
