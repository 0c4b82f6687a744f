// The main picture: what the edit is compared with left of a line, the edit right of it, and a mask painted over it.
// Beside that, what only a page can do for the panel around it: names for screen readers, and whether a slider is held.

const KEYS = { ArrowLeft: -2, ArrowRight: 2, ArrowDown: -2, ArrowUp: 2, PageDown: -10, PageUp: 10, Home: -100, End: 100 };
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const element = (kind, name, parent, attributes = {}) => {
  const made = document.createElement(kind);
  made.className = `nmg-${name}`;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent.append(made);
  return made;
};

function render({ model, el }) {
  const ended = new AbortController();
  const view = element("div", "view", el, { tabindex: 0, role: "slider", "aria-valuemin": 0, "aria-valuemax": 100 });
  const after = element("img", "after nmg-edit", view, { draggable: false });
  const before = element("img", "before", view, { draggable: false });
  const canvas = element("canvas", "paint", view, { "aria-hidden": true });
  element("span", "line", view);
  const left = element("span", "tag nmg-left", view);
  const right = element("span", "tag nmg-right", view);
  const hint = element("div", "hint", el);
  const thumbs = element("div", "thumbs", el, { role: "radiogroup", "aria-label": "left of the line" });

  // ---------------------------------------------------------------- pictures

  const addresses = {};
  const address = (name) => {
    const bytes = model.get(name);
    if (addresses[name]?.bytes !== bytes) {
      // A picture may still be loading from the old address.
      if (addresses[name]) setTimeout(URL.revokeObjectURL, 10_000, addresses[name].url);
      addresses[name] = { bytes, url: bytes?.byteLength ? URL.createObjectURL(new Blob([bytes])) : "" };
    }
    return addresses[name].url;
  };

  const show = () => {
    const named = model.get("names"), captions = model.get("captions");
    const shown = named.filter((name) => address(name));
    const against = shown.includes(model.get("against")) ? model.get("against") : "source";
    after.src = address("edit");
    before.src = address(against);
    after.alt = captions.edit ?? "";
    before.alt = captions[against] ?? "";
    left.textContent = against;
    right.textContent = model.get("showing");
    hint.textContent = model.get("painting")
      ? "Drag over the picture to paint a mask."
      : "Drag over the picture to compare. Left of the line:";
    view.classList.toggle("nmg-painting", model.get("painting"));
    view.classList.toggle("nmg-on-edit", model.get("on_edit"));
    view.setAttribute("aria-label", model.get("painting") ? "mask: arrows move, space paints" : `line between ${against} and edit`);
    const focused = thumbs.contains(document.activeElement);
    thumbs.replaceChildren();
    for (const name of shown) {
      const chosen = name === against;
      const thumb = element("button", `thumb nmg-${name}`, thumbs, { type: "button", role: "radio", "aria-checked": chosen });
      thumb.tabIndex = chosen ? 0 : -1;
      element("img", "small", thumb, { alt: "" }).src = address(name);
      element("span", "name", thumb).textContent = name;
      element("span", "measure", thumb).textContent = model.get("measures")[name] ?? "";
      thumb.onclick = () => choose(name);
    }
    if (focused) thumbs.querySelector("[aria-checked=true]").focus();
  };

  const choose = (name) => {
    model.set("against", name);
    model.save_changes();
  };

  thumbs.onkeydown = (event) => {
    const names = [...thumbs.children].map((thumb) => thumb.querySelector(".nmg-name").textContent);
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const now = [...thumbs.children].findIndex((thumb) => thumb.getAttribute("aria-checked") === "true");
    choose(names[(now + by + names.length) % names.length]);
  };

  // ---------------------------------------------------------------- the line

  let share = 50;
  const move = (to) => {
    share = Math.min(100, Math.max(0, to));
    view.style.setProperty("--nmg-share", `${share}%`);
    view.setAttribute("aria-valuenow", Math.round(share));
    view.setAttribute("aria-valuetext", `${Math.round(share)} % ${left.textContent}`);
    left.hidden = share < 12;
    right.hidden = share > 88;
  };

  const at = (event) => {
    const box = view.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };

  // ---------------------------------------------------------------- the mask

  const pen = canvas.getContext("2d");
  let place = [0.5, 0.5];
  const dab = (from, to) => {
    pen.globalCompositeOperation = model.get("erasing") ? "destination-out" : "source-over";
    pen.strokeStyle = "rgb(220, 30, 60)";
    pen.lineCap = "round";
    pen.lineWidth = model.get("brush") * canvas.width;
    pen.beginPath();
    pen.moveTo(from[0] * canvas.width, from[1] * canvas.height);
    pen.lineTo(to[0] * canvas.width + 0.01, to[1] * canvas.height);
    pen.stroke();
  };
  const aim = (to) => {
    place = to.map((value) => Math.min(1, Math.max(0, value)));
    view.style.setProperty("--nmg-x", `${100 * place[0]}%`);
    view.style.setProperty("--nmg-y", `${100 * place[1]}%`);
    view.style.setProperty("--nmg-brush", `${100 * model.get("brush")}%`);
  };
  const painted = () =>
    canvas.toBlob(async (blob) => model.send({ kind: "mask" }, undefined, [await blob.arrayBuffer()]));
  const wipe = () => {
    [canvas.width, canvas.height] = model.get("size");
  };

  // ---------------------------------------------------------------- pointer and keys

  let last = null;
  view.onpointerdown = (event) => {
    if (event.button) return;
    last = at(event);
    view.setPointerCapture(event.pointerId);
    model.get("painting") ? (aim(last), dab(last, last)) : move(100 * last[0]);
  };
  view.onpointermove = (event) => {
    const now = at(event);
    if (model.get("painting")) aim(now);
    if (!last) return;
    model.get("painting") ? dab(last, now) : move(100 * now[0]);
    last = now;
  };
  view.onpointerup = view.onpointercancel = () => {
    if (last && model.get("painting")) painted();
    last = null;
  };
  view.onkeydown = (event) => {
    const painting = model.get("painting");
    if (painting ? !(event.key in MOVES || event.key === " ") : !(event.key in KEYS)) return;
    event.preventDefault();
    event.stopPropagation();
    if (!painting) return move(share + KEYS[event.key]);
    if (event.key === " ") return dab(place, place), painted();
    const by = MOVES[event.key], before = place;
    aim([place[0] + by[0] / 40, place[1] + by[1] / 40]);
    if (event.shiftKey) dab(before, place), painted();
  };

  // ---------------------------------------------------------------- a picture from disk

  view.ondragover = (event) => {
    event.preventDefault();
    view.classList.add("nmg-over");
  };
  view.ondragleave = () => view.classList.remove("nmg-over");
  view.ondrop = async (event) => {
    event.preventDefault();
    event.stopPropagation();
    view.classList.remove("nmg-over");
    const file = event.dataTransfer.files[0];
    if (file) model.send({ kind: "file", name: file.name }, undefined, [await file.arrayBuffer()]);
  };

  // ---------------------------------------------------------------- the panel around it

  const panel = () => el.closest(".nmg-panel");
  const hold = (held) => {
    if (model.get("held") === held) return;
    model.set("held", held);
    model.save_changes();
  };
  const listen = { capture: true, signal: ended.signal };
  document.addEventListener(
    "pointerdown",
    (event) => hold(Boolean(event.target.closest?.(".noUi-target") && panel()?.contains(event.target))),
    listen,
  );
  // The slider's own last value goes first.
  for (const kind of ["pointerup", "pointercancel"]) document.addEventListener(kind, () => setTimeout(hold, 0, false), listen);

  const name = () => {
    for (const slider of panel()?.querySelectorAll(".widget-slider") ?? []) {
      const label = slider.querySelector(".widget-label")?.textContent ?? "";
      slider.querySelector(".noUi-handle")?.setAttribute("aria-label", label);
      slider.querySelector(".widget-readout")?.setAttribute("aria-label", `${label}, as a number`);
    }
    for (const bar of panel()?.querySelectorAll(".widget-hprogress .progress-bar") ?? []) bar.ariaHidden = "true";
    panel()?.querySelector(".nmg-upload")?.setAttribute("aria-label", "open another picture");
    panel()?.querySelector(".nmg-status")?.setAttribute("role", "status");
    panel()?.querySelector(".nmg-error")?.setAttribute("role", "alert");
  };
  // Keys are the panel's own: a letter in a list is a command of the notebook, such as to make a text of the cell.
  const own = (event) => event.ctrlKey || event.metaKey || event.stopPropagation();
  // The panel is there once its picture has a size; widgets of it may come later.
  const watch = new MutationObserver(name);
  const attached = new ResizeObserver(() => {
    if (!panel()) return;
    attached.disconnect();
    watch.observe(panel(), { childList: true, subtree: true });
    panel().addEventListener("keydown", own, { signal: ended.signal });
    name();
  });
  attached.observe(view);

  for (const trait of ["source", "reconstruction", "edit", "truth", "names", "captions", "measures", "showing", "against", "painting", "on_edit"])
    model.on(`change:${trait}`, show);
  model.on("change:brush", () => aim(place));
  model.on("change:size change:wiped", wipe);
  show(), wipe(), move(share), aim(place);
  return () => {
    ended.abort(), watch.disconnect(), attached.disconnect();
    for (const { url } of Object.values(addresses)) URL.revokeObjectURL(url);
  };
}

export default { render };
