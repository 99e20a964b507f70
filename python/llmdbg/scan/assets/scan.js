"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const columns = data.columns;
const KINDS = ["nan", "pos_inf", "neg_inf", "near_max", "subnormal", "zero"];
const LIMITS = { float16: 65504, bfloat16: 3.39e38, float32: 3.4028e38, float8_e4m3fn: 448, float8_e5m2: 57344 };
const MOST_ROWS = 400;

function element(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  if (name) made.className = name;
  return made;
}

function tensorName(i) {
  return [columns.node[i] || "(whole model)", columns.role[i], columns.slot[i]].filter(Boolean).join(" ");
}

function showFindings() {
  const list = document.getElementById("findings");
  for (const finding of data.findings) {
    const item = element("li");
    item.append(element("span", finding.level, "level " + finding.level), finding.sentence);
    const evidence = element("ul");
    for (const line of finding.evidence) evidence.append(element("li", line));
    item.append(evidence);
    list.append(item);
  }
  if (!data.findings.length) list.replaceWith(element("p", "None."));
  for (const note of [...data.notes, ...data.problems]) document.getElementById("evidence").append(element("li", note));
  const counts = Object.entries(data.counts).map(([name, count]) => `${count} ${name}`);
  document.getElementById("counts").textContent = counts.join(", ");
  document.getElementById("next").textContent = data.next;
}

function showGrowth() {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const axis = { gridcolor: colour("line"), zerolinecolor: colour("line"), linecolor: colour("line") };
  const traces = data.growth.map((line) => ({
    x: line.rows, y: line.rows.map((i) => columns.abs_max[i]), name: line.name,
    text: line.rows.map(tensorName), hovertemplate: "%{text}<br>|x| ≤ %{y}<extra></extra>",
    mode: "lines+markers", marker: { size: 4 },
  }));
  const bad = columns.level.map((level, i) => (level === "error" ? i : -1)).filter((i) => i >= 0);
  traces.push({
    x: bad, y: bad.map((i) => columns.abs_max[i] || 1), text: bad.map(tensorName), name: "error", mode: "markers",
    marker: { symbol: "x", size: 11, color: colour("FAIL") }, hovertemplate: "%{text}<extra></extra>",
  });
  const used = [...new Set(data.growth.flatMap((line) => line.rows.map((i) => columns.dtype[i])))];
  const shapes = used.filter((dtype) => LIMITS[dtype] && LIMITS[dtype] < 1e6).map((dtype) => ({
    type: "line", xref: "paper", x0: 0, x1: 1, y0: LIMITS[dtype], y1: LIMITS[dtype],
    line: { dash: "dash", width: 1, color: colour("faint") }, label: { text: dtype },
  }));
  Plotly.newPlot("growth", traces, {
    shapes, margin: { t: 10, r: 10 },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("ink"), size: 12 },
    yaxis: { ...axis, type: "log", title: { text: "|x| max" }, exponentformat: "power" },
    xaxis: { ...axis, title: { text: "tensor" } }, showlegend: traces.length < 16,
  }, { responsive: true, displaylogo: false });
}

function bar(i) {
  const made = element("div", null, "bar");
  const total = columns.numbers[i] || 1;
  for (const kind of KINDS) {
    const count = columns[kind][i];
    if (!count) continue;
    const part = element("span", null, kind);
    part.style.width = `${(100 * count) / total}%`;
    part.title = `${count} ${kind} of ${total}`;
    made.append(part);
  }
  return made;
}

function showHealth() {
  const body = document.querySelector("#health tbody");
  const wanted = document.getElementById("filter").value.toLowerCase();
  const rank = { error: 0, warning: 1, info: 2 };
  const order = columns.node.map((_, i) => i)
    .filter((i) => !wanted || [tensorName(i), columns.dtype[i], columns.findings[i]].join(" ").toLowerCase().includes(wanted))
    .sort((a, b) => (rank[columns.level[a]] ?? 3) - (rank[columns.level[b]] ?? 3) || a - b);
  body.replaceChildren(...order.slice(0, MOST_ROWS).map((i) => {
    const row = element("tr");
    const bars = element("td");
    if (columns.reason[i]) bars.textContent = columns.reason[i];
    else bars.append(bar(i));
    const dead = [[columns.dead_rows[i], "rows"], [columns.dead_channels[i], "channels"]];
    row.append(
      element("td", columns.findings[i]), element("td", columns.step[i], "number"), element("td", columns.rank[i], "number"),
      element("td", tensorName(i)), element("td", columns.dtype[i]), element("td", columns.shape[i]), bars,
      element("td", columns.abs_max[i], "number"), element("td", columns.headroom_bits[i], "number"),
      element("td", columns.range_bits[i], "number"),
      element("td", dead.filter(([count]) => count).map(([count, what]) => `${count} ${what}`).join(", ")),
    );
    return row;
  }));
  document.getElementById("shown").textContent = `${Math.min(order.length, MOST_ROWS)} of ${order.length} shown`;
}

showFindings();
showGrowth();
showHealth();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showGrowth);
document.getElementById("filter").addEventListener("input", showHealth);
