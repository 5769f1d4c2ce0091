// The face of omr.studio(): it shows what the kernel knows and tells it what a person does. One file, no dependencies, no network.
const CHUNK = 1 << 20; // bytes of a file in one message; servers take 10 MiB
const KINDS = { midi: "MIDI", musicxml: "MusicXML", kern: "kern", log: "corrections" };

function make(tag, name, parent, text = "", props = {}) {
  const node = Object.assign(document.createElement(tag), { className: name && "omr-" + name.replaceAll(" ", " omr-"), textContent: text }, props);
  parent?.append(node);
  return node;
}

function frame(node, [x0, y0, x1, y1], [width, height]) { // px of the page as per cent of the picture
  Object.assign(node.style, { left: 100 * x0 / width + "%", top: 100 * y0 / height + "%", width: 100 * (x1 - x0) / width + "%", height: 100 * (y1 - y0) / height + "%" });
}

function render({ model, el }) {
  const get = name => model.get(name), send = (what, more = {}, buffers) => model.send({ what, ...more }, undefined, buffers);
  const root = make("div", "studio", el);
  root.tabIndex = 0;
  root.dataset.lmSuppressShortcuts = "true"; // JupyterLab keeps its hands off our keys
  const gone = [], urls = {};
  const on = (node, event, f) => { node.addEventListener(event, f); gone.push(() => node.removeEventListener(event, f)); };
  const follow = (names, f) => { for (const n of names.split(" ")) { model.on("change:" + n, f); gone.push(() => model.off("change:" + n, f)); } };

  // ---- what is on the screen
  const bar = make("div", "bar", root), button = (name, text, title, f, parent = bar) => { const b = make("button", "button " + name, parent, text, { title, type: "button" }); on(b, "click", f); return b; };
  const file = make("input", "file", root, "", { type: "file", accept: ".pdf,.png,.jpg,.jpeg,.tif,.tiff" });
  button("open", "Open …", "a PDF, scan or photo; or drop it here", () => file.click());
  const pager = make("span", "group", bar);
  button("before", "‹", "page before", () => turn(-1), pager);
  const pageText = make("span", "text", pager);
  button("after", "›", "next page", () => turn(1), pager);
  const player = make("span", "group", bar);
  const playing = button("play", "▶ Play", "play or pause (space)", () => toggle(), player);
  const speed = make("input", "speed", player, "", { type: "range", min: .4, max: 1.6, step: .05, value: 1, title: "tempo" });
  const speedText = make("span", "text", player, "100 %");
  const mending = make("span", "group", bar);
  button("flag-before", "◂ flag", "flag before (p)", () => step(-1), mending);
  const flagText = make("span", "text", mending);
  button("flag-after", "flag ▸", "next flag (n)", () => step(1), mending);
  button("right", "✓ right", "this measure is right (r)", right, mending);
  const undoing = button("undo", "↶ undo", "take the last correction back (u)", () => send("undo"), mending);
  const saving = make("span", "group", bar);
  for (const [kind, text] of Object.entries(KINDS)) button("get-" + kind, "⤓ " + text, "download " + text, () => send("download", { kind }), saving);
  const status = make("div", "status", root);
  const stop = button("stop", "stop here", "join the pages read so far", () => send("stop"), status), said = make("span", "text", status);
  status.prepend(said);
  const panes = make("div", "panes", root);
  const drop = make("div", "drop", root, "Drop a PDF, a scan or a photo of printed music here");
  const paper = make("div", "pane paper", panes), sheet = make("div", "sheet", paper), picture = make("img", "picture", sheet, "", { alt: "the page" }), marks = make("div", "marks", sheet), cursor = make("div", "cursor", sheet);
  const score = make("div", "pane score", panes);
  const desk = make("div", "desk", root), views = make("div", "views", desk), seen = make("canvas", "crop", views), drawn = make("div", "crop drawn", views);
  const writing = make("div", "writing", desk), why = make("div", "why", writing);
  const text = make("textarea", "kern", writing, "", { spellcheck: false, wrap: "off", title: "kern: columns are staves from the lowest, parted by two spaces or more" });
  const problem = make("div", "problem", writing);
  const audio = make("audio", "", root);

  // ---- the kernel's measures
  const measure = n => get("measures").find(m => m.n === n), chosen = () => measure(get("selected"));
  let byId = {}, elements = {}, times = {}; // id of a drawn measure: number; id: element; number: [begin, end] in s

  function choose(n, sound = false) {
    if (n !== get("selected")) { model.set("selected", n); model.save_changes(); }
    else showChosen();
    if (sound && times[n]) play(...times[n]);
  }
  function showChosen() {
    const m = chosen();
    for (const node of marks.children) node.classList.toggle("omr-chosen", +node.dataset.n === m?.n);
    for (const node of score.querySelectorAll("g.measure")) node.classList.toggle("omr-chosen", byId[node.id] === m?.n);
    desk.style.display = m ? "" : "none";
    if (!m) return;
    why.textContent = `measure ${m.n}` + (m.odd ? `: ${m.odd}` : m.low ? `: confidence ${m.confidence.toFixed(2)}` : "") + (m.seen ? " (seen)" : "");
    if (document.activeElement !== text || text.dataset.n !== String(m.n)) { text.value = m.text; text.dataset.n = m.n; text.rows = Math.max(4, m.text.split("\n").length + 1); }
    showProblem(); showCrops(m); reveal(paper, marks.querySelector(`[data-n="${m.n}"]`)); reveal(score, elements[m.ids[0]]);
  }
  function reveal(pane, node) { // scrolls the pane and nothing else
    if (!node) return;
    const a = pane.getBoundingClientRect(), b = node.getBoundingClientRect();
    if (b.top < a.top || b.bottom > a.bottom) pane.scrollTop += (b.top + b.bottom - a.top - a.bottom) / 2;
  }
  function showCrops(m) {
    const [x0, y0, x1, y1] = m.box, [w, h] = get("size"), k = picture.naturalWidth / w, room = .35 * (y1 - y0);
    const width = (x1 - x0) * k, height = (y1 - y0 + 2 * room) * k;
    seen.style.display = width > 0 ? "" : "none";
    if (width > 0) { seen.width = width; seen.height = height; seen.getContext("2d").drawImage(picture, x0 * k, (y0 - room) * k, width, height, 0, 0, width, height); }
    drawn.replaceChildren();
    const svg = score.querySelector("svg"), parts = m.ids.map(i => elements[i]).filter(Boolean);
    if (!svg || !parts.length) return;
    const all = svg.getBoundingClientRect(), boxes = parts.map(p => p.getBoundingClientRect()), scale = svg.viewBox.baseVal.width / all.width;
    const [l, t] = [Math.min(...boxes.map(b => b.left)) - 8, Math.min(...boxes.map(b => b.top)) - 8], [r, b] = [Math.max(...boxes.map(b => b.right)) + 8, Math.max(...boxes.map(b => b.bottom)) + 8];
    const copy = svg.cloneNode(true);
    const whole = svg.viewBox.baseVal;
    for (const [name, value] of Object.entries({ x: 0, y: 0, width: whole.width, height: whole.height })) copy.querySelector("svg").setAttribute(name, value); // verovio draws in an inner picture that fills the outer one
    copy.setAttribute("overflow", "hidden");
    copy.setAttribute("viewBox", [l - all.left, t - all.top, r - l, b - t].map(x => x * scale).join(" "));
    for (const g of copy.querySelectorAll(".omr-chosen")) g.classList.remove("omr-chosen");
    drawn.append(copy);
  }
  function showProblem() {
    const p = get("problem"), mine = p.measure === get("selected") && p.text;
    problem.textContent = mine ? (p.line ? `line ${p.line}: ` : "") + p.text : "";
    text.classList.toggle("omr-wrong", !!mine);
  }

  // ---- pictures
  function showPage() {
    const size = get("size");
    marks.replaceChildren();
    get("systems").forEach((box, i) => frame(make("div", "system", marks, "", { title: `system ${i + 1}` }), box, size));
    for (const m of get("measures")) {
      const node = make("div", "measure" + (m.seen ? " seen" : "") + (m.odd ? " odd" : m.low ? " low" : ""), marks, "", { title: `measure ${m.n} ${m.odd || ""}` });
      node.dataset.n = m.n;
      frame(node, m.box, size);
      on(node, "click", () => choose(m.n, true));
    }
  }
  function blob(name, type) {
    URL.revokeObjectURL(urls[name]);
    const data = get(name);
    return urls[name] = data?.byteLength ? URL.createObjectURL(new Blob([data], { type })) : "";
  }
  function showPicture() {
    const url = blob("image", "image/jpeg");
    sheet.style.display = url ? "" : "none";
    if (url) picture.src = url; else picture.removeAttribute("src");
  }
  on(picture, "load", () => showChosen());
  function showScore() {
    score.innerHTML = get("svg"); // written by verovio in our own kernel
    byId = Object.fromEntries(get("measures").flatMap(m => m.ids.map(i => [i, m.n])));
    elements = Object.fromEntries([...score.querySelectorAll("g[id*='-L']")].map(g => [g.id, g]));
    const low = get("low");
    for (const m of get("measures")) for (const i of m.ids) if (elements[i]) {
      shade(elements[i], m.odd ? "odd" : m.low ? "low" : "plain");
    }
    for (const g of score.querySelectorAll("g.note, g.rest, g.chord")) {
      const place = g.id.match(/-(L\d+F\d+)/)?.[1];
      if (place in low) { g.classList.add("omr-doubt"); g.style.setProperty("--sure", low[place]); }
    }
  }
  function shade(g, name) {
    const box = g.getBBox(), rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const k of ["x", "y", "width", "height"]) rect.setAttribute(k, box[k]);
    rect.setAttribute("class", "omr-shade omr-" + name);
    g.prepend(rect);
  }
  on(score, "click", e => { // note heads are hollow and ledger lines lie over them: what counts is the distance
    const middle = r => Math.hypot((r.left + r.right) / 2 - e.clientX, (r.top + r.bottom) / 2 - e.clientY);
    const near = [...score.querySelectorAll("g.note, g.rest")].map(g => [middle((g.querySelector(".notehead") ?? g).getBoundingClientRect()), g]).sort((a, b) => a[0] - b[0])[0];
    const inside = [...score.querySelectorAll("g.measure")].find(g => { const r = g.getBoundingClientRect(); return r.left <= e.clientX && e.clientX <= r.right && r.top <= e.clientY && e.clientY <= r.bottom; });
    const hit = near?.[0] < 12 ? near[1] : null, bar = hit?.closest("g.measure") ?? inside;
    if (!bar || !(bar.id in byId)) return;
    choose(byId[bar.id], true);
    if (hit) pointAt(hit.id);
  });
  function pointAt(id) { // selects the line of a note in the text
    const line = +id.match(/-L(\d+)F/)?.[1] - chosen().first, lines = text.value.split("\n");
    if (!(line >= 0 && line < lines.length)) return;
    const start = lines.slice(0, line).join("\n").length + (line > 0);
    text.setSelectionRange(start, start + lines[line].length);
  }

  // ---- sound: the player alone knows the time
  let moments = [], until = Infinity, waiting = null, tick = 0, sounding = [], listens = false;
  function showTimes() {
    moments = get("moments");
    times = {};
    const bars = moments.filter(m => m[2] in byId), end = moments.at(-1)?.[0] ?? 0;
    bars.forEach((m, i) => { const n = byId[m[2]], t = bars[i + 1]?.[0] ?? end; times[n] = [times[n]?.[0] ?? m[0], t]; });
  }
  function showSound() {
    const url = blob("wav", "audio/wav");
    audio.pause(); mark(-1);
    if (url) audio.src = url; else audio.removeAttribute("src");
  }
  function play(from, to = Infinity) {
    listens = true;
    if (!audio.src) { waiting = [from, to]; return send("sound"); }
    until = to;
    const go = () => { audio.currentTime = from; audio.playbackRate = +speed.value; audio.play(); };
    if (audio.readyState) go(); else audio.addEventListener("loadedmetadata", go, { once: true });
  }
  function toggle() { if (audio.paused) play(times[get("selected")]?.[0] ?? 0); else audio.pause(); }
  function move() {
    cancelAnimationFrame(tick);
    const t = audio.currentTime;
    if (t >= until - .02) audio.pause();
    mark(audio.paused ? -1 : t);
    if (!audio.paused) tick = requestAnimationFrame(move);
  }
  function mark(t) {
    let a = 0, b = moments.length; // the last moment that is not later than t
    while (a < b) { const c = (a + b) >> 1; if (moments[c][0] <= t + .005) a = c + 1; else b = c; }
    const now = t < 0 ? [] : moments[a - 1]?.[1] ?? [];
    if (now !== sounding) {
      for (const i of sounding) elements[i]?.classList.remove("omr-sounds");
      for (const i of now) elements[i]?.classList.add("omr-sounds");
      sounding = now;
    }
    const at = t < 0 ? null : Object.keys(times).find(n => times[n][0] <= t && t < times[n][1]), m = at && measure(+at);
    cursor.style.display = m ? "" : "none";
    if (!m) return;
    const [x0, y0, x1, y1] = m.box, [begin, end] = times[at], x = x0 + (x1 - x0) * (t - begin) / (end - begin);
    frame(cursor, [x, y0, x, y1], get("size"));
    if (cursor.dataset.n !== at) { cursor.dataset.n = at; reveal(paper, marks.querySelector(`[data-n="${at}"]`)); reveal(score, elements[m.ids[0]]); }
  }
  for (const e of ["play", "pause", "ended", "timeupdate"]) on(audio, e, () => { playing.textContent = audio.paused ? "▶ Play" : "❚❚ Pause"; move(); });
  on(speed, "input", () => { audio.playbackRate = +speed.value; speedText.textContent = Math.round(100 * speed.value) + " %"; });

  // ---- flags, pages, keys
  function step(by, from = get("selected")) {
    const list = get("flags"), i = list.findIndex(f => f[0] === from);
    if (!list.length) return;
    const [n, , page] = list[(i + (i < 0 && by < 0 ? 0 : by) + list.length) % list.length];
    if (page === get("page")) choose(n); else send("page", { page, measure: n });
  }
  function right() {
    const n = get("selected");
    if (!n) return;
    const rest = get("flags").length > 1;
    send("right", { measure: n });
    if (rest) step(1, n);
  }
  function turn(by) { const p = get("page") + by; if (p >= 1 && p <= get("pages")) send("page", { page: p }); }
  const keys = { " ": toggle, n: () => step(1), p: () => step(-1), r: right, u: () => send("undo") };
  on(root, "keydown", e => {
    e.stopPropagation();
    if (e.target.matches("textarea, input, button") || e.ctrlKey || e.metaKey || !(e.key in keys)) return;
    e.preventDefault(); keys[e.key]();
  });

  // ---- text
  let typed = 0, fresh = true; // fresh: what is typed next is a new correction
  on(text, "focus", () => { fresh = true; });
  on(text, "input", () => {
    clearTimeout(typed);
    const measure = +text.dataset.n, value = text.value, more = !fresh; // of this moment: another measure may be chosen before the kernel hears of it
    typed = setTimeout(() => { send("edit", { measure, text: value, more }); fresh = false; }, 300);
  });
  on(text, "keydown", e => { if (e.key === "Tab" && !e.shiftKey) { e.preventDefault(); text.setRangeText("  ", text.selectionStart, text.selectionEnd, "end"); text.dispatchEvent(new Event("input")); } });

  // ---- files, in and out
  let heard = null; // called when the kernel has taken a chunk
  async function upload(f) {
    if (!f) return;
    const n = Math.max(1, Math.ceil(f.size / CHUNK)), id = Date.now();
    for (let i = 0; i < n; i++) {
      const data = await f.slice(i * CHUNK, (i + 1) * CHUNK).arrayBuffer(), taken = i + 1 < n && new Promise((ok, no) => { heard = ok; setTimeout(no, 30000); });
      said.textContent = `${f.name}: ${Math.round(100 * i / n)} %`;
      send("chunk", { id, name: f.name, i, n }, [data]);
      try { await taken; } catch { said.textContent = "the kernel does not answer; run the cell again"; return; }
    }
  }
  on(file, "change", () => { upload(file.files[0]); file.value = ""; });
  for (const e of ["dragenter", "dragover"]) on(root, e, ev => { ev.preventDefault(); ev.stopPropagation(); root.classList.add("omr-over"); });
  on(root, "dragleave", () => root.classList.remove("omr-over"));
  on(root, "drop", e => { e.preventDefault(); e.stopPropagation(); root.classList.remove("omr-over"); upload(e.dataTransfer.files[0]); });
  const receive = (message, buffers) => {
    if (message.taken !== undefined) heard?.();
    if (message.name) {
      const url = URL.createObjectURL(new Blob([buffers[0]], { type: message.mime }));
      make("a", "", null, "", { href: url, download: message.name }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
    }
  };
  model.on("msg:custom", receive);
  gone.push(() => model.off("msg:custom", receive));

  // ---- all of it
  function showState() {
    const busy = get("busy"), pages = get("pages"), flags = get("flags"), i = flags.findIndex(f => f[0] === get("selected"));
    said.textContent = get("status");
    stop.style.display = busy && pages ? "" : "none";
    text.readOnly = busy;
    drop.style.display = pages || busy ? "none" : "";
    panes.style.display = pages ? "" : "none";
    for (const g of [pager, player, mending, saving]) g.style.display = pages ? "" : "none";
    pageText.textContent = `page ${get("page")} of ${pages}`;
    flagText.textContent = i >= 0 ? `${i + 1} of ${flags.length}` : `${flags.length || "no"} flag${flags.length === 1 ? "" : "s"}`;
    undoing.disabled = !get("undoable");
  }
  let last = 0; // the state for which reading on was asked: once for each, however many views there are
  function readOn() { if (get("busy") && last !== get("asked")) { last = get("asked"); send("read_on", { asked: last }); } }
  function redraw() {
    showState(); showPage(); showScore(); showTimes(); showChosen();
    if (listens && !get("wav")?.byteLength) send("sound"); // who listens will listen again
    root.dataset.rev = get("rev"); root.dataset.busy = get("busy");
  }
  follow("rev", redraw);
  follow("selected", () => { showState(); showChosen(); });
  follow("image", showPicture);
  follow("wav", () => { showSound(); if (waiting && audio.src) { const w = waiting; waiting = null; play(...w); } });
  follow("problem", showProblem);
  follow("status busy asked", () => { showState(); root.dataset.busy = get("busy"); readOn(); });
  showPicture(); showSound(); redraw(); readOn();
  root.classList.add("omr-ready");
  return () => { audio.pause(); cancelAnimationFrame(tick); clearTimeout(typed); gone.forEach(f => f()); Object.values(urls).forEach(u => URL.revokeObjectURL(u)); };
}

export default { render };
