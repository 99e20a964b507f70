"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const element = (tag, text, attributes = {}) => {
    const node = document.createElement(tag);
    if (text !== undefined && text !== null) node.textContent = text;
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  // A column is its values, or, where few differ, what they are and which is where.
  const cell = (column, row) => {
    if (!column) return null;
    if (Array.isArray(column)) return column[row];
    return column.values[typeof column.codes === "number" ? column.codes : column.codes[row]];
  };
  const word = (name, row) => cell(data.words[name], row);
  const number = (name, row) => {
    const value = cell(data.numbers[name], row);
    return value === "inf" ? Infinity : value === "-inf" ? -Infinity : value ?? null;
  };
  const show = (value) => {
    if (value === null || value === undefined) return "";
    if (typeof value !== "number") return String(value);
    if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
    if (Number.isInteger(value) && Math.abs(value) < 1e7) return String(value);
    const size = Math.abs(value);
    return size >= 1e-3 && size < 1e5 ? String(Number(value.toPrecision(3))) : value.toExponential(1);
  };
  const nodeOf = (row) => word("golden_node", row) || word("candidate_node", row) || "";
  const matched = (row) => Boolean(word("golden_node", row) && word("candidate_node", row));
  const states = ["FAIL", "SUSPECT", "INHERITED", "PASS", "UNDECIDED"];
  const symbols = { FAIL: "✗", SUSPECT: "!", INHERITED: "↓", PASS: "✓", UNDECIDED: "?" };
  const culprit = data.findings[0] ?? null;

  // Banner
  if (culprit) for (const reason of [...culprit.evidence, ...culprit.patterns]) byId("evidence").append(element("li", reason));
  for (const other of data.findings.slice(1, 6)) byId("evidence").append(element("li", `also ${other.name}: ${other.evidence.slice(0, 2).join("; ")}`));
  for (const gate of data.gates) byId("evidence").append(element("li", gate));
  const count = (name, value) => {
    const item = element("span", `${name} `);
    item.append(element("b", value));
    byId("counts").append(item);
  };
  for (const state of states) count(`${symbols[state]} ${state}`, data.counts.states[state]);
  count("pairs", data.counts.pairs);
  count("only golden", data.counts.unmatched_golden);
  count("only candidate", data.counts.unmatched_candidate);
  const copyable = (command) => {
    const line = element("div");
    const button = element("button", "copy", { type: "button", "aria-label": `copy: ${command}` });
    button.addEventListener("click", () => {
      navigator.clipboard.writeText(command).then(() => { button.textContent = "copied"; }, () => {
        const range = document.createRange();
        range.selectNodeContents(line.firstChild);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        button.textContent = "selected";
      });
    });
    line.append(element("code", command), button);
    return line;
  };
  for (const command of data.commands) byId("commands").append(copyable(command));

  // Tabs
  const tabs = [...document.querySelectorAll('[role="tab"]')];
  const drawn = new Set();
  const open = (id) => {
    for (const tab of tabs) {
      const chosen = tab.getAttribute("aria-controls") === id;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
      byId(tab.getAttribute("aria-controls")).hidden = !chosen;
    }
    if (!drawn.has(id)) {
      drawn.add(id);
      ({ overview: drawOverview, table: drawTable, unmatched: drawUnmatched, runs: drawRuns })[id]();
    }
    if (id === "overview") afterPaint(drawCharts);
  };
  tabs.forEach((tab, at) => {
    tab.addEventListener("click", () => open(tab.getAttribute("aria-controls")));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(at + step + tabs.length) % tabs.length];
      next.focus();
      open(next.getAttribute("aria-controls"));
    });
  });

  // plotly takes longer to start than all else: it runs once the page stands and a chart is wanted.
  const wantCharts = () => {
    if (!window.Plotly) document.head.append(element("script", byId("plotly").textContent));
  };
  const afterPaint = (draw) => requestAnimationFrame(() => setTimeout(draw));

  // Charts: one look, taken from the page's own colours
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const layout = (more) => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("ink"), size: 12 },
    margin: { l: 60, r: 16, t: 12, b: 44 }, showlegend: false, hovermode: "closest", ...more,
  });
  const axis = (more) => ({ gridcolor: colour("line"), zerolinecolor: colour("line"), automargin: true, ...more });
  const options = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
  // Noise is grey; beyond it the lightness falls steadily, so the order reads without colour vision.
  const scale = [[0, "#e3e6ea"], [0.25, "#e3e6ea"], [0.2501, "#fff7bc"], [0.37, "#fed976"], [0.544, "#fe9929"], [0.75, "#cc4c02"], [1, "#5c1f04"]];
  const ratioOf = (row) => {
    const ratio = number("ratio", row);
    return ratio === null ? null : Math.min(ratio, 1e6);
  };
  const logRatio = (ratio) => Math.max(-1, Math.min(3, Math.log10(Math.max(ratio, 1e-9))));

  const split = (name) => {
    const found = /^(.*?)(?:^|[._/])(\d+)(?=$|[._/])(.*)$/.exec(name);
    return found ? { layer: Number(found[2]), slot: `${found[1]}.*${found[3]}` } : { layer: null, slot: name };
  };
  const outputs = [];
  for (let row = 0; row < data.rows; row++) if (matched(row) && !["input", "param"].includes(word("role", row))) outputs.push(row);
  const firstNonFinite = outputs.find((row) => (number("finiteness_mismatch", row) ?? 0) > 0);

  const strips = {
    "operators × layers": { x: (row) => split(nodeOf(row)).layer ?? "—", y: (row) => split(nodeOf(row)).slot, name: "layer" },
    "layers × steps": { x: (row) => number("step", row) ?? 0, y: (row) => { const part = split(nodeOf(row)); return part.layer === null ? part.slot : `layer ${part.layer}`; }, name: "step" },
    "layers × ranks": { x: (row) => number("rank", row) ?? 0, y: (row) => { const part = split(nodeOf(row)); return part.layer === null ? part.slot : `layer ${part.layer}`; }, name: "rank" },
  };
  const heat = { type: "heatmap", hoverinfo: "text", colorscale: scale, zmin: -1, zmax: 3,
    colorbar: { title: { text: "error / floor" }, tickvals: [-1, 0, 0.477, 1.176, 2, 3], ticktext: ["≤ 0.1", "1", "3", "15", "100", "≥ 1000"] } };
  const mark = (x, y, text) => ({ x, y, text, showarrow: false, font: { size: 15, color: "#000000" }, bgcolor: "#ffffffcc" });
  const byToken = "layers × tokens";
  const drawTokens = () => {
    const { layers, tokens_each: each, step } = data.tokens;
    const text = layers.map((layer) => layer.ratios.map((ratio, i) => `${escapeName(layer.name)}<br>token ${i * each}${each > 1 ? ` to ${(i + 1) * each - 1}` : ""}: ${show(ratio)}× the floor`));
    const divergence = culprit && (culprit.step ?? step) === step ? layers.findIndex((layer) => layer.row >= culprit.row) : -1;
    const marks = divergence < 0 ? [] : [mark(layers[divergence].ratios.indexOf(Math.max(...layers[divergence].ratios)), divergence, "▼")];
    const broken = layers.findIndex((layer) => firstNonFinite !== undefined && layer.row >= firstNonFinite);
    if (broken >= 0) marks.push(mark(layers[broken].ratios.indexOf(Math.max(...layers[broken].ratios)), broken, "✕"));
    Plotly.react("strip", [{ ...heat, z: layers.map((layer) => layer.ratios.map(logRatio)), text }], layout({
      height: Math.min(1200, 130 + 19 * layers.length), annotations: marks,
      xaxis: axis({ title: { text: `token of step ${step ?? 0}${each > 1 ? `, ${each} in each cell` : ""}` } }),
      yaxis: axis({ autorange: "reversed", tickvals: layers.map((_, i) => i), ticktext: layers.map((layer) => escapeName(layer.name)) }),
    }), options).then((chart) => {
      chart.removeAllListeners("plotly_click");
      chart.on("plotly_click", (event) => goTo(layers[event.points[0].y].row));
    });
  };
  const drawStrip = () => {
    if (byId("strip-kind").value === byToken) { drawTokens(); return; }
    const kind = strips[byId("strip-kind").value];
    const xs = new Map(), ys = new Map(), cells = new Map();
    for (const row of outputs) {
      const x = kind.x(row), y = kind.y(row), ratio = ratioOf(row);
      if (!xs.has(x)) xs.set(x, xs.size);
      if (!ys.has(y)) ys.set(y, ys.size);
      const key = `${xs.get(x)},${ys.get(y)}`, old = cells.get(key);
      if (!old || (ratio ?? -1) > (old.ratio ?? -1)) cells.set(key, { ratio, row });
    }
    const order = (map) => [...map.keys()].sort((a, b) => (typeof a === "number") - (typeof b === "number") || (typeof a === "number" ? a - b : map.get(a) - map.get(b)));
    const xNames = order(xs), yNames = [...ys.keys()];
    const z = yNames.map((y) => xNames.map((x) => { const cell = cells.get(`${xs.get(x)},${ys.get(y)}`); return cell && cell.ratio !== null ? logRatio(cell.ratio) : null; }));
    const text = yNames.map((y) => xNames.map((x) => {
      const cell = cells.get(`${xs.get(x)},${ys.get(y)}`);
      return cell ? `${escapeName(nodeOf(cell.row))}<br>${word("state", cell.row)}, ${show(number("ratio", cell.row))}× the floor` : "not observed";
    }));
    const marks = [];
    const place = (row, symbol) => {
      if (row === undefined || row === null) return;
      marks.push(mark(xNames.indexOf(kind.x(row)), yNames.indexOf(kind.y(row)), symbol));
    };
    if (culprit) place(culprit.row, "▼");
    place(firstNonFinite, "✕");
    Plotly.react("strip", [{ ...heat, z, text, xgap: 1, ygap: 1 }], layout({
      height: Math.min(1200, 130 + 19 * yNames.length), annotations: marks,
      xaxis: axis({ title: { text: kind.name }, tickvals: xNames.map((_, i) => i), ticktext: xNames.map((x) => escapeName(String(x))), tickmode: xNames.length > 40 ? "auto" : "array" }),
      yaxis: axis({ autorange: "reversed", tickvals: yNames.map((_, i) => i), ticktext: yNames.map(escapeName) }),
    }), options).then((chart) => {
      chart.removeAllListeners("plotly_click");
      chart.on("plotly_click", (event) => {
        const point = event.points[0];
        const cell = cells.get(`${xs.get(xNames[point.x])},${ys.get(yNames[point.y])}`);
        if (cell) goTo(cell.row);
      });
    });
  };
  // plotly reads a little HTML in its texts; a name must not be read that way.
  function escapeName(name) {
    return name.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  }
  // Thousands of SVG points make a page crawl: neighbours then share a point, which shows their worst.
  const MOST_POINTS = 600;
  const thinned = (rows) => {
    const size = Math.ceil(rows.length / MOST_POINTS), kept = [];
    const always = new Set([...data.findings.map((finding) => finding.row), firstNonFinite]);
    for (let i = 0; i < rows.length; i += size) {
      const bucket = rows.slice(i, i + size), worst = bucket.reduce((a, b) => ((ratioOf(b) ?? -1) > (ratioOf(a) ?? -1) ? b : a));
      kept.push(...bucket.filter((row) => row === worst || always.has(row)));
    }
    return kept;
  };
  const drawPropagation = () => {
    const shown = thinned(outputs), place = new Map(outputs.map((row, i) => [row, i]));
    const x = shown.map((row) => place.get(row));
    const positive = (name) => shown.map((row) => { const value = number(name, row); return value === null || value <= 0 || !Number.isFinite(value) ? null : value; });
    const floor = positive("floor");
    const names = shown.map((row) => `${escapeName(nodeOf(row))}<br>step ${number("step", row) ?? "—"}, ${word("state", row)}`);
    const traces = [
      { x, y: floor, name: "floor", mode: "lines", line: { color: colour("faint"), width: 1, dash: "dot" }, hoverinfo: "skip" },
      { x, y: floor.map((value) => (value === null ? null : 3 * value)), name: "3 × floor", mode: "lines", fill: "tonexty", fillcolor: "rgba(127,127,127,0.18)", line: { width: 0 }, hoverinfo: "skip" },
      { x, y: positive("relative_l2"), name: "observed", mode: "lines+markers", line: { color: colour("accent"), width: 1 }, marker: { size: 4, color: shown.map((row) => colour(word("state", row))) }, text: names, hovertemplate: "%{text}<br>%{y:.2e}<extra></extra>" },
    ];
    if (data.numbers.introduced) {
      traces.push({ x, y: positive("introduced"), name: "introduced here", mode: "markers", marker: { symbol: "diamond-open", size: 7, color: colour("FAIL") }, text: names, hovertemplate: "%{text}<br>introduced %{y:.2e}<extra></extra>" });
    }
    const marks = [];
    const flag = (row, text) => {
      const at = place.get(row);
      if (at !== undefined) marks.push({ x: at, yref: "paper", y: 1.02, yanchor: "bottom", text, showarrow: false, font: { size: 13 } });
    };
    if (culprit) flag(culprit.row, "▼ first divergence");
    if (firstNonFinite !== undefined) flag(firstNonFinite, "✕ first NaN/Inf");
    Plotly.react("propagation", traces, layout({
      height: 350, margin: { l: 60, r: 16, t: 30, b: 44 }, shapes: marks.map((mark) => ({ type: "line", x0: mark.x, x1: mark.x, y0: 0, y1: 1, yref: "paper", line: { color: colour("FAIL"), width: 1, dash: "dash" } })), annotations: marks, showlegend: true, legend: { orientation: "h", y: -0.18 },
      xaxis: axis({ title: { text: "outputs in execution order" } }), yaxis: axis({ type: "log", title: { text: "relative L2" }, exponentformat: "power" }),
    }), options).then((chart) => {
      chart.removeAllListeners("plotly_click");
      chart.on("plotly_click", (event) => goTo(outputs[event.points[0].x]));
    });
  };
  function drawOverview() {
    const choose = byId("strip-kind");
    const several = (name) => new Set(outputs.map((row) => number(name, row))).size > 1;
    for (const name of [...Object.keys(strips), ...(data.tokens ? [byToken] : [])]) choose.append(element("option", name, { value: name }));
    choose.value = several("step") ? "layers × steps" : several("rank") ? "layers × ranks" : "operators × layers";
    choose.addEventListener("change", () => { if (!due) drawStrip(); });
  }
  let due = true;
  const drawCharts = () => {
    // Drawn while hidden they would have no width.
    if (!due || byId("overview").hidden) return;
    due = false;
    wantCharts();
    drawStrip();
    drawPropagation();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    if (!due) { drawStrip(); drawPropagation(); }
    if (selected !== null) drawDetail(selected);
  });

  // Table: only the rows in sight are in the document
  const columns = [
    ["state", "132px", (row) => word("state", row)], ["× floor", "78px", (row) => number("ratio", row)],
    ["golden", "minmax(260px,3fr)", (row) => word("golden_node", row)], ["candidate", "minmax(160px,2fr)", (row) => word("candidate_node", row)],
    ["tensor", "90px", (row) => `${word("role", row) ?? ""} ${word("slot", row) ?? ""}`], ["step", "54px", (row) => number("step", row)],
    ["rank", "54px", (row) => number("rank", row)], ["rel. L2", "74px", (row) => number("relative_l2", row)],
    ["1 − cos", "74px", (row) => number("one_minus_cosine", row)], ["max |d|", "74px", (row) => number("max_absolute_error", row)],
    ["worst row", "84px", (row) => number("worst_row_relative_l2", row)], ["worst channel", "100px", (row) => number("worst_channel_relative_l2", row)],
    ["ULP", "66px", (row) => number("max_ulp", row)], ["alignment", "80px", (row) => number("confidence", row)],
  ];
  const height = 26, grid = byId("grid");
  let view = [], sortBy = null, descending = true, selected = null;
  const wanted = new Set(states);
  const searchable = (row) => ["golden_node", "candidate_node", "golden_op_type", "candidate_op_type", "reason", "cmp_fail_reason", "slot", "role"].map((name) => word(name, row) ?? "").join("\n").toLowerCase();
  let texts = null;
  const refresh = () => {
    const needle = byId("filter").value.trim().toLowerCase();
    if (needle && !texts) texts = Array.from({ length: data.rows }, (_, row) => searchable(row));
    view = [];
    for (let row = 0; row < data.rows; row++) {
      if (wanted.has(word("state", row)) && (!needle || texts[row].includes(needle))) view.push(row);
    }
    if (sortBy !== null) {
      const value = columns[sortBy][2], keys = new Map(view.map((row) => [row, value(row)]));
      const sign = descending ? -1 : 1;
      view.sort((a, b) => {
        const p = keys.get(a), q = keys.get(b);
        if (p === null || p === undefined) return q === null || q === undefined ? a - b : 1;
        if (q === null || q === undefined) return -1;
        return (p < q ? -sign : p > q ? sign : 0) || a - b;
      });
    }
    byId("shown").textContent = `${view.length} of ${data.rows} rows`;
    body.style.height = `${view.length * height + 30}px`;
    lines.clear();
    body.replaceChildren();
    paint();
  };
  const body = element("div");
  // By place in the view: what stays in sight while scrolling stays in the document.
  const lines = new Map();
  const lineOf = (at) => {
    const row = view[at], line = element("div", null, { class: "row", role: "row", id: `row-${row}` });
    line.style.top = `${at * height + 30}px`;
    columns.forEach(([name, , value], i) => {
      const shown = show(value(row)), cell = element("span", i === 0 ? `${symbols[shown]} ${shown}` : shown, { role: "gridcell", title: shown });
      if (i === 0) cell.className = `state state-${shown}`;
      line.append(cell);
    });
    line.addEventListener("click", () => select(row));
    return line;
  };
  const paint = () => {
    const first = Math.max(0, Math.floor(grid.scrollTop / height) - 8), last = Math.min(view.length, first + Math.ceil(grid.clientHeight / height) + 20);
    for (const [at, line] of lines) if (at < first || at >= last) { line.remove(); lines.delete(at); }
    let next = body.firstChild;
    for (let at = first; at < last; at++) {
      if (!lines.has(at)) { lines.set(at, lineOf(at)); body.insertBefore(lines.get(at), next); }
      next = lines.get(at).nextSibling;
      lines.get(at).setAttribute("aria-selected", String(view[at] === selected));
    }
  };
  const select = (row) => {
    selected = row;
    history.replaceState(null, "", `#row=${row}`);
    const at = view.indexOf(row);
    if (at >= 0) {
      const top = at * height;
      if (top < grid.scrollTop || top > grid.scrollTop + grid.clientHeight - 3 * height) grid.scrollTop = Math.max(0, top - grid.clientHeight / 3);
    }
    grid.setAttribute("aria-activedescendant", `row-${row}`);
    paint();
    drawDetail(row);
  };
  function drawTable() {
    grid.style.setProperty("--columns", columns.map(([, width]) => width).join(" "));
    const head = element("div", null, { class: "head", role: "row" });
    columns.forEach(([name], i) => {
      const button = element("button", name, { type: "button", role: "columnheader" });
      button.addEventListener("click", () => {
        descending = sortBy === i ? !descending : true;
        sortBy = i;
        [...head.children].forEach((other, j) => {
          other.textContent = columns[j][0] + (j === i ? (descending ? " ▼" : " ▲") : "");
          other.setAttribute("aria-sort", j === i ? (descending ? "descending" : "ascending") : "none");
        });
        refresh();
      });
      head.append(button);
    });
    grid.append(head, body);
    for (const state of states) {
      const label = element("label"), box = element("input", null, { type: "checkbox" });
      box.checked = true;
      box.addEventListener("change", () => { if (box.checked) wanted.add(state); else wanted.delete(state); refresh(); });
      label.append(box, ` ${symbols[state]} ${state}`);
      byId("states").append(label);
    }
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("filter").addEventListener("input", refresh);
    grid.addEventListener("scroll", () => requestAnimationFrame(paint));
    grid.addEventListener("keydown", (event) => {
      const jump = { ArrowDown: 1, ArrowUp: -1, PageDown: 20, PageUp: -20, Home: -Infinity, End: Infinity }[event.key];
      if (jump === undefined || !view.length) return;
      event.preventDefault();
      const at = view.indexOf(selected);
      select(view[Math.max(0, Math.min(view.length - 1, at < 0 ? 0 : at + jump))]);
    });
    refresh();
  }
  function goTo(row) {
    open("table");
    wanted.add(word("state", row));
    select(row);
    grid.focus();
  }

  // One row
  const pairsOf = (entries) => {
    const table = element("table");
    for (const [name, value] of entries) {
      if (value === null || value === undefined || value === "") continue;
      const line = element("tr");
      line.append(element("th", name), element("td", show(value)));
      table.append(line);
    }
    return table;
  };
  const link = (row, text) => {
    const anchor = element("a", text, { href: `#row=${row}` });
    anchor.addEventListener("click", (event) => { event.preventDefault(); goTo(row); });
    return anchor;
  };
  const upstream = (row) => {
    const same = (other) => nodeOf(other) === nodeOf(row) && number("step", other) === number("step", row) && number("rank", other) === number("rank", row) && number("call", other) === number("call", row);
    const inputs = [];
    for (let other = 0; other < data.rows; other++) if (word("role", other) === "input" && other !== row && same(other)) inputs.push(other);
    return inputs.map((input) => {
      let producer = null;
      for (const other of outputs) {
        if (data.bytes[input] !== null && data.bytes[other] === data.bytes[input] && (number("order", other) ?? 0) < (number("order", row) ?? 0)) producer = other;
      }
      return { input, producer };
    });
  };
  function drawDetail(row) {
    const box = byId("detail"), detail = data.details[row];
    box.replaceChildren(element("h2", nodeOf(row)));
    const state = word("state", row);
    box.append(element("p", `${symbols[state]} ${state} — ${word("reason", row) ?? ""}`, { class: `state state-${state}` }));
    if (word("cmp_fail_reason", row)) box.append(element("p", `not measured: ${word("cmp_fail_reason", row)}`));
    box.append(element("h3", "Pair"), pairsOf([
      ["golden", `${word("golden_node", row) ?? "—"} (${word("golden_op_type", row) ?? "type unknown"}) ${word("golden_dtype", row) ?? ""} ${word("golden_shape", row) ?? ""}`],
      ["candidate", `${word("candidate_node", row) ?? "—"} (${word("candidate_op_type", row) ?? "type unknown"}) ${word("my_dtype", row) ?? ""} ${word("my_shape", row) ?? ""}`],
      ["tensor", `${word("role", row) ?? ""} ${word("slot", row) ?? ""}`], ["step", number("step", row)], ["rank", number("rank", row)],
      ["alignment", number("confidence", row)], ["evidence", word("evidence", row)], ["transform", word("transform", row)],
    ]));
    box.append(element("h3", "Measures"), pairsOf([
      ["error / floor", number("ratio", row)], ["floor", number("floor", row)], ["introduced here", number("introduced", row)], ["required factor", number("required_factor", row)],
      ["against the golden operator", number("shadow_ratio", row) === null ? null : `${show(number("shadow_ratio", row))}× what rounding leaves${number("shadow_row_ratio", row) === null ? "" : `, worst row ${show(number("shadow_row_ratio", row))}×`}`],
      ["relative L2", number("relative_l2", row)], ["1 − cosine", number("one_minus_cosine", row)],
      ["max |d|", number("max_absolute_error", row) === null ? null : `${show(number("max_absolute_error", row))} at flat index ${number("max_absolute_error_index", row)}: golden ${show(number("golden_at_max_abs", row))}, candidate ${show(number("candidate_at_max_abs", row))}`],
      ["mean |d|", number("mean_absolute_error", row)], ["max relative", number("max_relative_error", row)], ["max ULP", number("max_ulp", row)], ["KL", number("kl_divergence", row)],
      ["worst row", number("worst_row", row) === null ? null : `${show(number("worst_row_relative_l2", row))} at row ${number("worst_row", row)}`],
      ["worst channel", number("worst_channel", row) === null ? null : `${show(number("worst_channel_relative_l2", row))} at channel ${number("worst_channel", row)}`],
      ["finiteness differs at", number("finiteness_mismatch", row)],
    ]));
    const inputs = upstream(row);
    if (inputs.length) {
      box.append(element("h3", "Inputs"));
      const table = element("table");
      for (const { input, producer } of inputs) {
        const line = element("tr"), from = element("td");
        if (producer !== null) from.append("from ", link(producer, nodeOf(producer)));
        const name = element("td");
        name.append(link(input, word("slot", input) ?? "input"));
        line.append(name, element("td", `${symbols[word("state", input)]} ${word("state", input)} ${show(number("ratio", input))}×`), from);
        table.append(line);
      }
      box.append(table);
    }
    if (!detail) {
      box.append(element("p", "Histograms and profiles are kept for the worst rows only.", { class: "hint" }));
      return;
    }
    for (const path of [detail.golden_path, detail.candidate_path]) if (path) box.append(copyable(`llmdbg show '${path.replaceAll("'", "'\\''")}'`));
    if (detail.note) box.append(element("p", detail.note, { class: "hint" }));
    if (!detail.tile) return;
    const sides = element("table"), names = Object.keys(detail.statistics[0]);
    const head = element("tr");
    head.append(element("th", ""), element("th", "golden"), element("th", "candidate"));
    sides.append(head);
    for (const name of names) {
      const line = element("tr");
      line.append(element("th", name), element("td", show(detail.statistics[0][name])), element("td", show(detail.statistics[1][name])));
      sides.append(line);
    }
    box.append(element("h3", "Statistics"), sides);
    wantCharts();
    const chart = (title, className, traces, more) => {
      const place = element("div", null, { class: `chart ${className}` });
      box.append(element("h3", title), place);
      Plotly.newPlot(place, traces, layout({ margin: { l: 48, r: 8, t: 6, b: 32 }, ...more }), { ...options, displayModeBar: false });
    };
    const middles = (edges) => edges.slice(1).map((edge, i) => (edge + edges[i]) / 2);
    const steps = (counts, edges, name, dash) => ({ x: middles(edges), y: counts, name, mode: "lines", line: { shape: "hvh", dash, color: name === "golden" ? colour("faint") : colour("accent") } });
    if (detail.histogram.edges.length) chart("Values", "small", [steps(detail.histogram.golden, detail.histogram.edges, "golden", "dot"), steps(detail.histogram.candidate, detail.histogram.edges, "candidate", "solid")], { showlegend: true, legend: { orientation: "h", y: 1.2 }, xaxis: axis(), yaxis: axis({ type: "log" }) });
    if (detail.difference_histogram.edges.length) chart("|difference|, log₁₀", "small", [{ type: "bar", x: middles(detail.difference_histogram.edges), y: detail.difference_histogram.count, marker: { color: colour("accent") } }], { xaxis: axis(), yaxis: axis() });
    const profile = (title, points, name) => chart(title, "small", [{ x: points.x, y: points.y, mode: points.x.length > 1 ? "lines" : "markers", line: { color: colour("accent"), width: 1 } }], { xaxis: axis({ title: { text: name } }), yaxis: axis({ type: "log", exponentformat: "power" }) });
    profile("Relative L2 by row (token)", detail.row_profile, "row");
    profile("Relative L2 by channel", detail.channel_profile, "channel");
    chart("|difference|, largest in each cell", "tile", [{ type: "heatmap", z: detail.tile, colorscale: "Cividis" }], { xaxis: axis({ title: { text: "channels" } }), yaxis: axis({ autorange: "reversed", title: { text: "rows" } }) });
    const table = element("table"), header = element("tr");
    for (const name of ["index", "golden", "candidate"]) header.append(element("th", name));
    table.append(header);
    for (const worst of detail.top) {
      const line = element("tr");
      line.append(element("td", `[${worst.index.join(", ")}]`), element("td", show(worst.golden)), element("td", show(worst.candidate)));
      table.append(line);
    }
    box.append(element("h3", "Largest differences"), table);
  }

  function drawUnmatched() {
    const sides = { "Only in the golden run": [], "Only in the candidate": [] };
    for (let row = 0; row < data.rows; row++) {
      if (!word("candidate_node", row)) sides["Only in the golden run"].push(row);
      else if (!word("golden_node", row)) sides["Only in the candidate"].push(row);
    }
    for (const [title, rows] of Object.entries(sides)) {
      byId("unmatched").append(element("h2", `${title}: ${rows.length}`));
      const table = element("table");
      for (const row of rows.slice(0, 2000)) {
        const line = element("tr");
        line.append(element("td", nodeOf(row)), element("td", `${word("role", row) ?? ""} ${word("slot", row) ?? ""}`), element("td", `step ${show(number("step", row))}`), element("td", word("evidence", row) ?? word("cmp_fail_reason", row) ?? ""));
        table.append(line);
      }
      byId("unmatched").append(table);
      if (rows.length > 2000) byId("unmatched").append(element("p", `and ${rows.length - 2000} more: they are in compare.csv`, { class: "hint" }));
    }
  }
  function drawRuns() {
    for (const side of ["golden", "candidate"]) {
      const run = data[side], about = Object.entries(run.about ?? {}).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]);
      byId("runs").append(element("h2", side), pairsOf([["path", run.path], ["layout", `${run.layout} ${run.variant}`], ["tensors", run.records], ...about, ...run.problems.map((problem) => ["problem", problem])]));
    }
  }

  open("overview");
  const linked = /^#row=(\d+)$/.exec(location.hash);
  if (linked && Number(linked[1]) < data.rows) goTo(Number(linked[1]));
})();
