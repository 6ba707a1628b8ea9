// Sorting, filtering and choosing on the index; the comparison of up to four runs. Text is only ever set as text.
"use strict";

const MOST = 4;
const byId = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// ---- index -------------------------------------------------------------------------------------------------------

function sortBy(heading) {
  const { kind } = heading.dataset;
  const first = kind === "high" ? "descending" : "ascending"; // the best first
  const other = first === "ascending" ? "descending" : "ascending";
  const order = heading.getAttribute("aria-sort") === first ? other : first;
  for (const each of heading.parentElement.cells) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);

  const sign = order === "ascending" ? 1 : -1;
  const value = (row) => row.cells[heading.cellIndex].dataset.value;
  const compare = kind === "text" ? (a, b) => a.localeCompare(b) : (a, b) => Number(a) - Number(b);
  const body = heading.closest("table").tBodies[0];
  const rows = [...body.rows].map((row) => [value(row), row]);
  // What was not measured stands last in either order.
  rows.sort(([a], [b]) => (a === "") - (b === "") || (a === "" ? 0 : sign * compare(a, b)));
  body.append(...rows.map(([, row]) => row));
}

function filter() {
  const words = byId("filter-text").value.toLowerCase().split(/\s+/).filter(Boolean);
  const quantization = byId("filter-quantization").value;
  const domain = byId("filter-domain").value;
  let shown = 0;
  let all = 0;
  for (const group of document.querySelectorAll(".group")) {
    let here = 0;
    for (const row of group.querySelector("tbody").rows) {
      const { name, quantization: own, domain: worst } = row.dataset;
      row.hidden = !(
        words.every((word) => name.includes(word)) &&
        (!quantization || own === quantization) &&
        (!domain || worst.split(" ").includes(domain))
      );
      here += row.hidden ? 0 : 1;
      all += 1;
    }
    group.hidden = here === 0;
    shown += here;
  }
  byId("shown").textContent = shown === all ? `${all} runs` : `${shown} of ${all} runs`;
}

function choose() {
  const boxes = [...document.querySelectorAll(".choose input")];
  const chosen = boxes.filter((box) => box.checked);
  for (const box of boxes) box.disabled = !box.checked && chosen.length >= MOST;
  const bar = byId("chosen");
  bar.hidden = chosen.length === 0;
  bar.querySelector("span").textContent = `${chosen.length} of at most ${MOST} chosen`;
  bar.querySelector("a").href = `compare.html#${chosen.map((box) => box.value).join("&")}`;
}

function startIndex() {
  byId("filters").hidden = false;
  byId("filters").addEventListener("input", filter);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const button of document.querySelectorAll(".ranking thead button")) {
    button.addEventListener("click", () => sortBy(button.parentElement));
  }
  for (const box of document.querySelectorAll(".choose input")) {
    box.hidden = false;
    box.addEventListener("change", choose);
  }
  byId("chosen").querySelector("button").addEventListener("click", () => {
    for (const box of document.querySelectorAll(".choose input:checked")) box.checked = false;
    choose();
  });
  filter();
  choose();
}

// ---- comparison --------------------------------------------------------------------------------------------------

const waiting = new Map(); // path: what to do with its numbers
globalThis.refusalBench = { receive: (path, run) => waiting.get(path)(run) };

const loaded = new Map(); // path: promise of its numbers
function load(path) {
  if (!loaded.has(path)) {
    loaded.set(
      path,
      new Promise((resolve, reject) => {
        waiting.set(path, resolve);
        const script = element("script", { src: `data/${path}.js` });
        script.addEventListener("error", () => reject(new Error(`data/${path}.js cannot be loaded`)));
        document.head.append(script);
      }),
    );
  }
  return loaded.get(path);
}

// The other pages are rounded by Python, which takes a tie (12.5 %, 0.125) to the even digit: as here.
const even = (value) => (Math.abs(value % 1) === 0.5 ? 2 * Math.round(value / 2) : Math.round(value));
const number = (value) => {
  if (value === null) return "–";
  const rounded = Number.isInteger(8 * value) ? even(100 * value) / 100 : value; // no other number is a tie
  return (Number(rounded.toFixed(2)) + 0).toFixed(2).replace("-", "−");
};
const whole = (share) => even(100 * share).toFixed(0);
const percent = (share) => (share === null ? "–" : `${whole(share)} %`);
const domainsOf = (runs) => [...new Set(runs.flatMap((run) => Object.keys(run.tasks)))].sort();

function startComparison(choices) {
  const named = new Map(); // path: what a reader calls the run
  const picker = element("select", {}, element("option", { value: "" }, "none"));
  for (const group of choices.groups) {
    const options = group.runs.map(([path, model, quantization, id]) => {
      named.set(path, { model, id });
      return element("option", { value: path }, `${model} · ${quantization} · ${id}`);
    });
    picker.append(element("optgroup", { label: group.title }, ...options));
  }
  const pickers = Array.from({ length: MOST }, () => picker.cloneNode(true));
  pickers.forEach((each, i) => {
    byId("choice").append(element("label", {}, element("span", { class: `key c${i}` }, `Run ${i + 1}`), each));
    each.addEventListener("change", () => {
      const paths = [...new Set(pickers.map((one) => one.value).filter(Boolean))];
      location.hash = paths.join("&");
    });
  });
  let turn = 0;

  async function show() {
    const mine = ++turn;
    // Only runs of this site: an address must not make the page load another script.
    const paths = [...new Set(location.hash.slice(1).split("&"))].filter((path) => named.has(path)).slice(0, MOST);
    pickers.forEach((each, i) => (each.value = paths[i] ?? ""));
    const place = byId("comparison");
    try {
      const numbers = await Promise.all(paths.map(load));
      const runs = numbers.map((run, i) => ({ ...run, ...named.get(paths[i]), path: paths[i], colour: `c${i}` }));
      if (mine !== turn) return; // another choice was made meanwhile
      place.replaceChildren(
        ...(runs.length ? comparison(runs, choices) : [element("p", { class: "soft" }, "Choose two to four runs.")]),
      );
    } catch (error) {
      if (mine === turn) place.replaceChildren(element("p", { class: "notice" }, error.message));
    }
  }

  addEventListener("hashchange", show);
  show();
}

function comparison(runs, choices) {
  return [
    legend(runs),
    ...incomparable(runs, choices.groups),
    section("At a glance", factsTable(runs)),
    section(
      "Refusal by domain",
      element("p", { class: "soft" }, "Rate on held-out prompts, 95 % interval; ablated and added: own direction."),
      ratesTable(runs),
    ),
    ...overRefusal(runs),
    ...matrices(runs),
    curves(runs, choices.measures),
  ];
}

const section = (title, ...content) => element("section", {}, element("h2", {}, title), ...content);
const scroll = (table) => element("div", { class: "scroll", tabindex: "0" }, table);

function legend(runs) {
  const keys = runs.map((run) =>
    element(
      "span",
      { class: `key ${run.colour}` },
      element("a", { href: `runs/${run.path}.html` }, run.model),
      ` ${run.id}`,
    ),
  );
  return element("p", { class: "legend" }, ...keys);
}

function incomparable(runs, groups) {
  const stated = [...new Set(runs.map((run) => run.group))].map((key) => groups.find((g) => g.key === key).stated);
  if (stated.length < 2) return [];
  const differing = Object.keys(stated[0]).filter((name) => stated.some((each) => each[name] !== stated[0][name]));
  return [
    element(
      "p",
      { class: "notice", id: "incomparable" },
      `Not comparable in rates: these runs differ in ${differing.join(", ")}. They are in no common ranking.`,
    ),
  ];
}

function table(kind, head, rows) {
  const heads = head.map((cell) => element("th", { scope: "col" }, cell));
  const lines = rows.map(([name, ...cells]) => element("tr", {}, element("th", { scope: "row" }, name), ...cells));
  return scroll(
    element("table", { class: kind }, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...lines)),
  );
}

const heads = (runs) => [
  "",
  ...runs.map((run) => element("span", { class: `key ${run.colour}` }, run.model, element("small", {}, run.id))),
];

function factsTable(runs) {
  const names = Object.keys(runs[0].facts);
  return table("compare", heads(runs), names.map((name) => [
    name,
    ...runs.map((run) => element("td", {}, run.facts[name] ?? "–")),
  ]));
}

function ratesTable(runs) {
  const conditions = {
    baseline_harmful: "harmful",
    ablated_harmful: "harmful, ablated",
    baseline_harmless: "harmless",
    added_harmless: "harmless, added",
  };
  const rows = domainsOf(runs).flatMap((domain) =>
    Object.entries(conditions).map(([key, words]) => [
      element("span", {}, `${domain}, `, element("span", { class: "ci" }, words)),
      ...runs.map((run) => rateCell(run.tasks[domain]?.rates[key])),
    ]),
  );
  return table("compare", heads(runs), rows);
}

function overRefusal(runs) {
  if (!runs.some((run) => run.overRefusal)) return [];
  const conditions = {
    baseline_harmless: ["safe", ""],
    ablated_harmless: ["safe", "ablated"],
    added_harmless: ["safe", "added"],
    baseline_harmful: ["unsafe contrasts", ""],
    ablated_harmful: ["unsafe contrasts", "ablated"],
  };
  const rows = Object.entries(conditions).map(([key, [prompts, words]]) => [
    element("span", {}, prompts, element("span", { class: "ci" }, words && `, ${words}`)),
    ...runs.map((run) => rateCell(run.overRefusal?.[key])),
  ]);
  const words = "Safe prompts that only look dangerous, and unsafe contrasts; ablated and added: the domains' shared direction.";
  return [section("Over-refusal", element("p", { class: "soft" }, words), table("compare", heads(runs), rows))];
}

function rateCell(rate) {
  if (!rate || rate[0] === null) return element("td", {}, "–");
  const [value, low, high] = rate;
  const bar = element("span", { class: "bar", "aria-hidden": "true" });
  for (const [name, end] of [["--at", value], ["--low", low], ["--high", high]]) {
    bar.style.setProperty(name, `${100 * end}%`);
  }
  const interval = element("span", { class: "ci" }, ` [${whole(low)}–${whole(high)}]`);
  return element("td", { class: "rate" }, bar, element("b", {}, percent(value)), interval);
}

function matrices(runs) {
  const kinds = {
    cosine: "Cosine of the domains' directions, at each run's common site.",
    transfer: "Transfer: drop of the column's refusal score by the row's direction, as a share of the drop by its own.",
    ablation: "Ablation: refusal rate of the column's harmful prompts with the row's direction ablated.",
    addition: "Addition: refusal rate of the column's harmless prompts with the row's vector added.",
  };
  const domains = domainsOf(runs);
  const drawn = Object.entries(kinds).map(([kind, words]) => {
    const rows = domains.map((row) => [row, ...domains.map((column) => overlaidCell(runs, kind, row, column))]);
    return element("figure", {}, element("figcaption", {}, words), table("matrix overlay", ["", ...domains], rows));
  });
  return [section("Matrices, overlaid", element("div", { class: "figures wide" }, ...drawn))];
}

function overlaidCell(runs, kind, row, column) {
  const strips = runs.map((run) => {
    const matrix = run.matrices[kind];
    const value = matrix?.values[matrix.domains.indexOf(row)]?.[matrix.domains.indexOf(column)] ?? null;
    const heat = element("span", value === null ? {} : { class: value < 0 ? "heat negative" : "heat" }, number(value));
    if (value !== null) heat.style.setProperty("--heat", `${Math.min(100, 100 * Math.abs(value))}%`);
    return element("span", { class: run.colour, title: `${run.model}: ${number(value)}` }, heat);
  });
  return element("td", {}, ...strips);
}

function curves(runs, measures) {
  const names = Object.keys(measures);
  const picker = element("select", {}, ...names.map((name) => element("option", {}, name)));
  const words = element("p", { class: "soft" });
  const charts = element("div", { class: "figures" });
  const draw = () => {
    const column = names.indexOf(picker.value) + 1; // of a curve's rows: layer, then the measures
    words.textContent = `${measures[picker.value]}. Horizontal axis: depth, 0 to 1. Dot: the selected layer.`;
    charts.replaceChildren(...domainsOf(runs).map((domain) => chart(runs, domain, column)));
  };
  picker.addEventListener("change", draw);
  draw();
  const control = element("form", { class: "controls" }, element("label", {}, "Measure", picker));
  return section("Layer curves, overlaid", control, words, charts);
}

const SIZE = { width: 360, height: 200, left: 40, right: 8, top: 10, bottom: 24 };

function svg(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function chart(runs, domain, column) {
  const series = runs.filter((run) => run.tasks[domain]?.curve.some((row) => row[column] !== null));
  const values = series.flatMap((run) => run.tasks[domain].curve.map((row) => row[column])).filter((v) => v !== null);
  const title = element("h3", {}, domain);
  if (!values.length) return element("figure", {}, title, element("p", { class: "soft" }, "Not measured."));
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (high - low < 1e-9) [low, high] = [low - 0.5, high + 0.5];
  const x = (depth) => SIZE.left + (SIZE.width - SIZE.left - SIZE.right) * depth;
  const y = (value) => SIZE.top + ((SIZE.height - SIZE.top - SIZE.bottom) * (high - value)) / (high - low);
  const drawn = svg("svg", {
    class: "chart",
    viewBox: `0 0 ${SIZE.width} ${SIZE.height}`,
    role: "img",
    "aria-label": `${domain}, by depth: ${series.map((run) => run.model).join(", ")}`,
  });
  for (const tick of ticks(low, high)) {
    const [right, label] = [SIZE.width - SIZE.right, String(tick).replace("-", "−")];
    drawn.append(
      svg("line", { class: "grid", x1: SIZE.left, x2: right, y1: y(tick), y2: y(tick) }),
      svg("text", { x: SIZE.left - 6, y: y(tick) + 4, "text-anchor": "end" }, label),
    );
  }
  for (const depth of [0, 0.25, 0.5, 0.75, 1]) {
    drawn.append(svg("text", { x: x(depth), y: SIZE.height - 6, "text-anchor": "middle" }, String(depth)));
  }
  for (const run of series) drawn.append(line(run, run.tasks[domain], column, x, y));
  return element("figure", {}, title, drawn);
}

function line(run, task, column, x, y) {
  const last = Math.max(run.layers - 1, 1);
  const at = (row) => [x(row[0] / last).toFixed(1), y(row[column]).toFixed(1)];
  const stretches = [[]]; // a null interrupts the line
  for (const row of task.curve) {
    if (row[column] === null) stretches.push([]);
    else stretches.at(-1).push(at(row).join(","));
  }
  const drawn = stretches.filter((points) => points.length).map((points) => svg("polyline", { points: points.join(" ") }));
  const selected = task.curve.find((row) => row[0] === task.chosen && row[column] !== null);
  if (selected) drawn.push(svg("circle", { cx: at(selected)[0], cy: at(selected)[1], r: 4 }));
  return svg("g", { class: `series ${run.colour}` }, svg("title", {}, run.model), ...drawn);
}

function ticks(low, high) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((each) => each >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i <= high / step + 1e-9; i += 1) found.push(Number((i * step).toPrecision(10)));
  return found;
}

// ------------------------------------------------------------------------------------------------------------------

if (byId("filters")) startIndex();
if (byId("choices")) startComparison(JSON.parse(byId("choices").textContent));
