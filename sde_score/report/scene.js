// Pictures with sliders: panels of layers drawn on canvases from small arrays; needs no server.
//
// A page has <figure id="NAME" class="scene"></figure>, this script, and sceneOf(NAME, SPEC), which
// sde_score.report.scene writes.
"use strict";
(() => {
  const STYLE = `
.scene { --ink: #1f2933; --faint: #9aa5b1; --frame: #cbd2d9; --paper: #ffffff; --truth: #0072b2;
  --learned: #d55e00; --other: #00805c; --shade: #62a8d3;
  margin: 1em 0; color: var(--ink); width: 100%; max-width: none; font-size: .95em; }
[data-md-color-scheme="slate"] .scene, .dark .scene { --ink: #e4e7eb; --faint: #7b8794;
  --frame: #52606d; --paper: #161b22; --truth: #56b4e9; --learned: #f28e3c; --other: #2fbf95;
  --shade: #2f7fb0; }
.scene .controls { display: flex; flex-wrap: wrap; gap: .4em 1.2em; margin-bottom: .6em; }
.scene .control { display: flex; flex: 1 1 16em; align-items: center; gap: .6em; min-width: 0; }
.scene .control.playing { flex-basis: 22em; }
.scene .control label { white-space: nowrap; }
.scene .control output { font-weight: 600; font-variant-numeric: tabular-nums; white-space: nowrap; }
.scene input[type="range"] { flex: 1 1 4em; min-width: 0; height: 2.2em; accent-color: var(--truth);
  touch-action: pan-y; }
.scene select, .scene button { font: inherit; color: inherit; background: var(--paper);
  border: 1px solid var(--frame); border-radius: .3em; padding: .25em .7em; min-height: 2.2em; }
.scene button { cursor: pointer; min-width: 4.6em; }
.scene :focus-visible { outline: 2px solid var(--learned); outline-offset: 2px; }
.scene .panels { display: flex; flex-wrap: wrap; align-items: flex-end; gap: .8em; }
.scene .panel { flex: 1 1 15em; min-width: 0; max-width: 34em; margin: 0; text-align: left; }
.scene .panel > span { display: block; font-weight: 600; margin-bottom: .2em; }
.scene canvas { display: block; width: 100%; border: 1px solid var(--frame); border-radius: .2em; }
.scene .legend { display: flex; flex-wrap: wrap; gap: .1em 1em; margin: .4em 0; }
.scene .legend label { display: flex; align-items: center; gap: .35em; min-height: 1.9em; }
.scene .legend i { width: 1em; height: .7em; border-radius: .2em; display: inline-block; }
.scene .readouts { margin: .3em 0; text-align: left; }
.scene .readouts span { display: inline-block; margin-right: 1.6em; }
.scene .readouts b { font-variant-numeric: tabular-nums; }
@media (max-width: 30em) { .scene .control.playing { flex-wrap: wrap; } }
@media print { .scene button, .scene input { display: none; } }`;
  const KINDS = { u8: Uint8Array, i16: Int16Array };
  const BREAK = -32768; // ends a line
  const product = (sizes) => sizes.reduce((a, b) => a * b, 1);
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const scenes = [];

  function element(parent, tag, fields = {}, text = "") {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(fields)) made.setAttribute(name, value);
    made.textContent = text;
    parent.append(made);
    return made;
  }

  // The arrays of a scene, and the part of one at the present stops of the controls.
  function reader(spec, state) {
    const bytes = Uint8Array.from(atob(spec.blob), (letter) => letter.charCodeAt(0)).buffer;
    const stops = Object.fromEntries(spec.controls.map((c) => [c.name, c.values.length]));
    const named = (text) => text.replace(/\{(\w+)\}/g, (_, control) => state[control]);
    const place = (control, count) =>
      Math.floor((state[control] * (count - 1)) / Math.max(1, stops[control] - 1));
    function take(name, over = []) {
      const { kind, shape, offset, scale } = spec.arrays[named(name)];
      let start = 0;
      over.forEach((control, axis) => {
        start += place(control, shape[axis]) * product(shape.slice(axis + 1));
      });
      const rest = shape.slice(over.length);
      const size = KINDS[kind].BYTES_PER_ELEMENT;
      const values = new KINDS[kind](bytes, offset + start * size, product(rest));
      return { values, shape: rest, scale };
    }
    const count = (name) => spec.arrays[named(name)].shape[0];
    const number = (key, over) =>
      over.reduce((list, control) => list[place(control, list.length)], spec.numbers[named(key)]);
    return { take, count, place, number };
  }

  // What layers draw with: places in pixels, colors of the page.
  function pen(canvas, window_, colors) {
    const context = canvas.getContext("2d");
    const [left, right, bottom, top] = window_;
    const { width, height } = canvas;
    const x = (value) => ((value - left) / (right - left)) * width;
    const y = (value) => ((top - value) / (top - bottom)) * height;
    const color = (name) => colors.getPropertyValue(`--${name}`).trim();
    const line = width / 360; // one unit of line width on a panel of any size
    return { context, x, y, color, line, width, height, window: window_ };
  }

  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

  const DRAW = {
    field(at, layer, read) { // a grid of shares of the largest value, from the paper to a color
      const { values, shape: [rows, columns] } = read.take(layer.array, layer.over);
      const [from, to] = [rgb(at.color("paper")), rgb(at.color(layer.color))];
      const small = document.createElement("canvas");
      [small.width, small.height] = [columns, rows];
      const pixels = new ImageData(columns, rows);
      values.forEach((value, i) => {
        const place = 4 * ((rows - 1 - Math.floor(i / columns)) * columns + (i % columns));
        from.forEach((low, c) => { pixels.data[place + c] = low + ((to[c] - low) * value) / 255; });
        pixels.data[place + 3] = 255;
      });
      small.getContext("2d").putImageData(pixels, 0, 0);
      at.context.imageSmoothingQuality = "high";
      at.context.drawImage(small, 0, 0, at.width, at.height);
    },
    points(at, layer, read) {
      const { values, scale } = read.take(layer.array, layer.over);
      const size = (layer.size || 1.6) * at.line;
      at.context.fillStyle = at.context.strokeStyle = at.color(layer.color);
      at.context.lineWidth = 1.2 * at.line;
      at.context.globalAlpha = layer.alpha || 0.75;
      for (let i = 0; i < values.length; i += 2) {
        at.context.beginPath();
        at.context.arc(at.x(values[i] * scale), at.y(values[i + 1] * scale), size, 0, 7);
        if (layer.hollow) at.context.stroke();
        else at.context.fill();
      }
    },
    segments(at, layer, read) { // from points of one array to those of another, perhaps arrows
      const [from, to] = [layer.array, layer.to].map((name) => read.take(name, layer.over));
      at.context.strokeStyle = at.color(layer.color);
      at.context.lineWidth = (layer.size || 1) * at.line;
      at.context.globalAlpha = layer.alpha || 0.8;
      at.context.beginPath();
      for (let i = 0; i < to.values.length; i += 2) {
        const [x0, y0, x1, y1] = [from, to].flatMap((end) =>
          [at.x(end.values[i] * end.scale), at.y(end.values[i + 1] * end.scale)]);
        at.context.moveTo(x0, y0);
        at.context.lineTo(x1, y1);
        if (!layer.head) continue;
        for (const side of [-0.5, 0.5]) {
          const turn = Math.atan2(y1 - y0, x1 - x0) + side;
          const length = Math.min(5 * at.line, 0.5 * Math.hypot(x1 - x0, y1 - y0));
          at.context.moveTo(x1, y1);
          at.context.lineTo(x1 - length * Math.cos(turn), y1 - length * Math.sin(turn));
        }
      }
      at.context.stroke();
    },
    lines(at, layer, read) { // lines of points, with breaks between
      const { values, scale } = read.take(layer.array, layer.over);
      at.context.strokeStyle = at.color(layer.color);
      at.context.lineWidth = (layer.size || 1.4) * at.line;
      at.context.globalAlpha = layer.alpha || 1;
      at.context.beginPath();
      let next = "moveTo";
      for (let i = 0; i < values.length; i += 2) {
        if (values[i] === BREAK) { next = "moveTo"; continue; }
        at.context[next](at.x(values[i] * scale), at.y(values[i + 1] * scale));
        next = "lineTo";
      }
      at.context.stroke();
    },
    paths(at, layer, read) { // states of points one after the other, up to the present stop
      const { values, shape: [, points], scale } = read.take(layer.array);
      const last = read.place(layer.along, read.count(layer.array));
      const place = (k, i) => [0, 1].map((c) => values[2 * (k * points + i) + c] * scale);
      at.context.strokeStyle = at.context.fillStyle = at.color(layer.color);
      at.context.lineWidth = (layer.size || 1) * at.line;
      for (let i = 0; i < points; i += 1) {
        at.context.globalAlpha = 0.55;
        at.context.beginPath();
        for (let k = 0; k <= last; k += 1) {
          const [x, y] = place(k, i);
          at.context[k ? "lineTo" : "moveTo"](at.x(x), at.y(y));
        }
        at.context.stroke();
        at.context.globalAlpha = 1;
        const [x, y] = place(last, i);
        at.context.beginPath();
        at.context.arc(at.x(x), at.y(y), 2.2 * at.line, 0, 7);
        at.context.fill();
      }
    },
    bars(at, layer, read) { // numbers side by side; that of the present stop stands out
      const heights = layer.numbers.length && read.number(layer.numbers, layer.over || []);
      const shown = layer.along ? read.place(layer.along, heights.length + 1) - 1 : -1;
      const step = (at.window[1] - at.window[0]) / heights.length;
      heights.forEach((value, i) => {
        const left = at.x(at.window[0] + (i + 0.1) * step);
        const right = at.x(at.window[0] + (i + 0.9) * step);
        at.context.globalAlpha = i === shown ? 1 : 0.45;
        at.context.fillStyle = at.color(i === shown ? "learned" : layer.color);
        at.context.fillRect(left, at.y(value), right - left, at.y(0) - at.y(value));
      });
    },
    image(at, layer, read) { // one of the frames that lie one below the other in a picture
      const { picture, frames } = layer;
      if (!picture.complete || !picture.naturalWidth) return;
      const height = picture.naturalHeight / frames;
      at.context.imageSmoothingEnabled = false;
      at.context.drawImage(picture, 0, read.place(layer.along, frames) * height,
        picture.naturalWidth, height, 0, 0, at.width, at.height);
    },
  };

  function sceneOf(name, spec) {
    const figure = document.getElementById(name);
    const state = Object.fromEntries(spec.controls.map((c) => [c.name, c.start || 0]));
    const read = reader(spec, state);
    const hidden = new Set();
    let asked = 0;
    figure.replaceChildren();
    figure.setAttribute("role", "group");
    figure.setAttribute("aria-label", spec.title);
    const row = element(figure, "div", { class: "controls" });
    const showers = spec.controls.map((control) => controlOf(row, name, control, state, ask));
    const board = element(figure, "div", { class: "panels" });
    const panels = spec.panels.map((panel) => {
      const box = element(board, "div", { class: "panel" });
      element(box, "span", {}, panel.title);
      const canvas = element(box, "canvas", { role: "img" });
      canvas.style.aspectRatio = panel.aspect || 1;
      new ResizeObserver(ask).observe(canvas);
      return { ...panel, canvas };
    });
    const layers = spec.panels.flatMap((panel) => panel.layers);
    for (const layer of layers.filter((each) => each.kind === "image")) {
      layer.picture = new Image();
      layer.picture.onload = ask;
      layer.picture.src = layer.source;
    }
    legendOf(figure, layers, hidden, ask);
    const said = element(figure, "p", { class: "readouts", "aria-live": "polite" });

    function ask() { // one drawing for all that changes before the next frame
      cancelAnimationFrame(asked);
      asked = requestAnimationFrame(draw);
    }

    function draw() {
      showers.forEach((show) => show());
      const words = spec.readouts.map((each) =>
        [each.label, read.number(each.numbers, each.over).toFixed(each.digits)]);
      said.replaceChildren();
      words.forEach(([label, value]) => {
        element(element(said, "span", {}, `${label} `), "b", {}, value);
        said.append(" ");
      });
      const told = words.map((pair) => pair.join(" ")).join("; ");
      const colors = getComputedStyle(figure);
      for (const panel of panels) {
        const { canvas } = panel;
        const sharp = Math.min(devicePixelRatio || 1, 2);
        canvas.width = Math.max(1, Math.round(canvas.clientWidth * sharp));
        canvas.height = Math.max(1, Math.round(canvas.clientHeight * sharp));
        canvas.setAttribute("aria-label", `${panel.alt} ${told}`.trim());
        const at = pen(canvas, panel.window, colors);
        at.context.fillStyle = at.color("paper");
        at.context.fillRect(0, 0, canvas.width, canvas.height);
        for (const layer of panel.layers) {
          if (hidden.has(layer.name)) continue;
          at.context.save();
          DRAW[layer.kind](at, layer, read);
          at.context.restore();
        }
      }
    }
    scenes.push(ask);
    ask();
  }

  // A slider or a list of names; returns what shows its present value.
  function controlOf(row, scene, control, state, ask) {
    const box = element(row, "div", { class: control.play ? "control playing" : "control" });
    const id = `${scene}-${control.name}`;
    element(box, "label", { for: id }, control.label);
    const set = (stop) => { state[control.name] = stop; ask(); };
    if (control.kind === "select") {
      const list = element(box, "select", { id });
      control.values.forEach((text, stop) => element(list, "option", { value: stop }, text));
      list.oninput = () => set(Number(list.value));
      return () => { list.value = state[control.name]; };
    }
    const last = control.values.length - 1;
    const slider = element(box, "input", { id, type: "range", min: 0, max: last, step: 1 });
    const value = element(box, "output", { for: id });
    slider.oninput = () => set(Number(slider.value));
    const play = control.play ? playerOf(box, slider, last, set) : null;
    return () => {
      slider.value = state[control.name];
      value.textContent = control.values[state[control.name]];
      slider.setAttribute("aria-valuetext", value.textContent);
      if (play) play();
    };
  }

  // A button that moves a slider to its end; with reduced motion, a tenth of the way a press.
  function playerOf(box, slider, last, set) {
    const button = element(box, "button", { type: "button" });
    let timer = 0;
    const stop = () => { clearInterval(timer); timer = 0; };
    const forward = (by) => set(Math.min(last, Number(slider.value) + by));
    slider.addEventListener("pointerdown", stop);
    slider.addEventListener("keydown", stop);
    button.onclick = () => {
      const ended = Number(slider.value) >= last;
      if (calm.matches) return ended ? set(0) : forward(Math.ceil(last / 10));
      if (timer) { stop(); return set(Number(slider.value)); }
      if (ended) set(0);
      timer = setInterval(() => {
        if (Number(slider.value) >= last) stop();
        forward(1);
      }, Math.max(40, 6000 / last));
      return undefined;
    };
    return () => {
      const word = calm.matches ? "Step" : "Play";
      button.textContent = timer && Number(slider.value) < last ? "Pause" : word;
    };
  }

  // A box for each name of a layer, which hides and shows it.
  function legendOf(figure, layers, hidden, ask) {
    const legend = element(figure, "div", { class: "legend" });
    const colors = new Map(layers.filter((l) => l.name).map((l) => [l.name, l.color]));
    for (const [name, color] of colors) {
      const label = element(legend, "label");
      const box = element(label, "input", { type: "checkbox" });
      box.checked = true;
      box.onchange = () => { hidden[box.checked ? "delete" : "add"](name); ask(); };
      element(label, "i").style.background = `var(--${color})`;
      label.append(name);
    }
  }

  element(document.head, "style", {}, STYLE);
  const redraw = () => scenes.forEach((ask) => ask());
  new MutationObserver(redraw).observe(document.body, { attributes: true });
  new MutationObserver(redraw).observe(document.documentElement, { attributes: true });
  window.sceneOf = sceneOf;
})();
