"use strict";
// The page's own script. Names and texts of others become text nodes and attributes, never markup.
(() => {
const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const {labels, rows, cells} = data;
const ABSENT = "–";
const ROWS_A_PAGE = 50;
const WARM = 58.5, HOT = 78; // from there on the text of the dark, of the light theme takes the other color: 4.5 to 1 everywhere
const SVG = "http://www.w3.org/2000/svg";

// ---- elements

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}
const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// ---- numbers as the other reports print them

const fixed = (number) => (number === null ? ABSENT : number.toFixed(1));
const signed = (number) => (number === null ? ABSENT : (number < 0 ? "" : "+") + number.toFixed(1));
const counted = (count, noun) => `${count.toLocaleString("en-US")} ${noun}${count === 1 ? "" : "s"}`;

// ---- what is shown: a view has columns, and an index into them is one line of it

const at = (column) => cells.row.map((row) => column[row]);
const cellView = {
  ...cells,
  task: at(rows.task), attack: at(rows.attack), defense: at(rows.defense), kind: at(rows.kind), needs: at(rows.needs),
  hasStatus: (index, status) => cells.status[index] === status,
};
const rowView = {
  ...rows,
  row: rows.task.map((_, row) => row),
  seed: rows.ok.map((ok, row) => ok + rows.failed[row] + rows.skipped[row]),
  // of several cells: ok if one ended well
  status: rows.ok.map((ok, row) => (ok ? 0 : rows.failed[row] ? 1 : 2)),
  hasStatus: (row, status) => rows[data.statuses[status]][row] > 0,
};
const cellsOfRow = rows.task.map(() => []);
cells.row.forEach((row, cell) => cellsOfRow[row].push(cell));

const PARTS = ["task", "attack", "defense"];
const lowered = Object.fromEntries(PARTS.map((part) => [part, labels[part].map((names) => names.join("\n").toLowerCase())]));
const usedKinds = [...new Set(rows.kind)].sort((one, other) => one - other);

const state = {task: "", attack: "", seeds: "mean", status: "", text: "", hidden: new Set(), lacks: new Set(), sort: "", page: 0, cell: ""};

function matcher() {
  const place = (part) => labels[part].findIndex((names) => names[1] === state[part]);
  const task = place("task"), attack = place("attack");
  const status = data.statuses.indexOf(state.status);
  const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
  const seed = /^\d+$/.test(state.seeds) ? Number(state.seeds) : null;
  const hasNeeds = data.needs.map((needs) => needs.every((resource) => !state.lacks.has(data.resources[resource])));
  const keyOf = (view, index) => (view === cellView ? data.keys[cells.record[index]] : "");
  return (view, index) =>
    (task < 0 || view.task[index] === task) &&
    (attack < 0 || view.attack[index] === attack) &&
    !state.hidden.has(data.kinds[view.kind[index]]) &&
    hasNeeds[view.needs[index]] &&
    (status < 0 || view.hasStatus(index, status)) &&
    (seed === null || view !== cellView || view.seed[index] === seed) &&
    words.every((word) => PARTS.some((part) => lowered[part][view[part][index]].includes(word)) || keyOf(view, index).startsWith(word));
}

// ---- the list of cells

const deviated = (name) => (view, index) =>
  fixed(view[name][index]) + (view === rowView && rows[`${name}_std`][index] !== null ? ` ± ${fixed(rows[`${name}_std`][index])}` : "");
const ofLabel = (part) => ({id: part, head: part[0].toUpperCase() + part.slice(1), words: true, show: (view, index) => labels[part][view[part][index]][0]});
const ofNumber = (id, head, show = (view, index) => fixed(view[id][index])) => ({id, head, show});
const hasFrr = rows.frr.some((rate) => rate !== null);
const COLUMNS = [
  ofLabel("task"), ofLabel("attack"), ofLabel("defense"),
  {id: "kind", head: "Kind", words: true, show: (view, index) => data.kinds[view.kind[index]]},
  ofNumber("seed", "Seed", (view, index) => String(view.seed[index])),
  {id: "status", head: "Status", words: true, show: (view, index) => statusOf(view, index)},
  ofNumber("cacc", "CACC", deviated("cacc")), ofNumber("asr", "ASR", deviated("asr")), ofNumber("base", "Base"),
  ofNumber("added", "ASR - base", (view, index) => signed(view.added[index])), ofNumber("floor", "Floor"),
  ...(hasFrr ? [ofNumber("frr", "FRR")] : []),
  ofNumber("seconds", "Seconds"),
];

function statusOf(view, index) {
  if (view === cellView || view.seed[index] === 1) return data.statuses[view.status[index]];
  return data.statuses.filter((name) => rows[name][index]).map((name) => `${rows[name][index]} ${name}`).join(", ");
}

function sorted(view, indices) {
  const descending = state.sort.startsWith("-");
  const column = view[state.sort.replace("-", "")];
  if (!column) return indices;
  const sign = descending ? -1 : 1;
  return indices.sort((one, other) => {
    if (column[one] === null || column[other] === null) return (column[one] === null) - (column[other] === null);
    return sign * (column[one] - column[other]) || one - other;
  });
}

function sortingHead(text, sort, press, attributes = {}) {
  const button = make("button", {type: "button"}, text);
  button.addEventListener("click", press);
  return make("th", {scope: "col", "aria-sort": sort, ...attributes}, button);
}

function listHead(view) {
  return make("thead", {}, make("tr", {}, ...COLUMNS.map(({id, head, words}) => {
    const sort = state.sort === id ? "ascending" : state.sort === `-${id}` ? "descending" : "none";
    const press = () => {
      state.sort = sort === "ascending" ? `-${id}` : id;
      state.page = 0;
      show(false);
      byId("list").querySelector(`[data-column="${id}"] button`).focus();
    };
    const text = id === "seed" && view === rowView ? "Seeds" : head;
    return sortingHead(text, sort, press, {class: words ? "words" : null, "data-column": id});
  })));
}

function listLine(view, index) {
  return make("tr", {}, ...COLUMNS.map(({id, words, show: shown}) => {
    const text = shown(view, index);
    if (id === "defense") {
      const cell = view === cellView ? index : cellsOfRow[index][0];
      const button = make("button", {type: "button", class: "open", "aria-haspopup": "dialog", "data-cell": cell}, text);
      return make("td", {class: "words"}, button);
    }
    const status = id === "status" ? ` status-${data.statuses[view.status[index]]}` : "";
    return make("td", {class: (words ? "words" : "") + status || null}, text);
  }));
}

function showList(matches) {
  const view = state.seeds === "mean" ? rowView : cellView;
  const indices = sorted(view, view.task.map((_, index) => index).filter((index) => matches(view, index)));
  const pages = Math.max(1, Math.ceil(indices.length / ROWS_A_PAGE));
  state.page = Math.min(Math.max(0, state.page), pages - 1);
  const first = state.page * ROWS_A_PAGE;
  const page = indices.slice(first, first + ROWS_A_PAGE);
  byId("list").replaceChildren(listHead(view), make("tbody", {}, ...page.map((index) => listLine(view, index))));
  const noun = view === rowView ? "mean" : "cell";
  byId("shown").textContent = `${counted(indices.length, noun)} of ${view.task.length.toLocaleString("en-US")} shown`;
  byId("page").textContent = indices.length ? `${first + 1} to ${first + page.length} of ${indices.length.toLocaleString("en-US")}` : "no cell fits the filters";
  byId("previous").disabled = state.page === 0;
  byId("next").disabled = state.page === pages - 1;
  byId("pages").hidden = false;
}

// ---- the matrix of each task

function showMatrices(matches) {
  const view = state.seeds === "mean" || state.seeds === "each" ? rowView : cellView;
  const byTask = new Map();
  view.task.forEach((task, index) => {
    if (!matches(view, index)) return;
    if (!byTask.has(task)) byTask.set(task, []);
    byTask.get(task).push(index);
  });
  for (const section of document.querySelectorAll(".task")) {
    const indices = byTask.get(Number(section.dataset.task));
    section.hidden = !indices;
    section.querySelector(".scroll").replaceChildren(...(indices ? [matrix(view, indices, JSON.parse(section.dataset.marks))] : []));
  }
}

function matrix(view, indices, marks) {
  const distinct = (column) => [...new Set(indices.map((index) => column[index]))].sort((one, other) => one - other);
  const attacks = distinct(view.attack), defenses = distinct(view.defense);
  const entries = new Map(indices.map((index) => [`${view.defense[index]} ${view.attack[index]}`, index]));
  const heads = attacks.map((attack) => {
    const name = labels.attack[attack][0];
    return make("th", {scope: "col"}, name + (marks[name] || ""));
  });
  const body = defenses.map((defense) => {
    const row = attacks.map((attack) => make("td", {}, entry(view, entries.get(`${defense} ${attack}`))));
    return make("tr", {}, make("th", {scope: "row"}, labels.defense[defense][0]), ...row);
  });
  const head = make("tr", {}, make("th", {scope: "col"}, "Defense", make("small", {}, "CACC / ASR")), ...heads);
  return make("table", {class: "matrix"}, make("thead", {}, head), make("tbody", {}, ...body));
}

function entry(view, index) {
  if (index === undefined) return ABSENT;
  const cacc = view.cacc[index], asr = view.asr[index];
  const text = cacc === null ? data.statuses[view.status[index]] : `${fixed(cacc)} / ${fixed(asr)}`;
  const cell = view === cellView ? index : cellsOfRow[index][0];
  const button = make("button", {type: "button", "aria-haspopup": "dialog", "data-cell": cell, "data-tip": view === rowView ? "row" : "cell"}, text);
  if (view === rowView && rows.ok[index] && rows.ok[index] < view.seed[index]) button.append(` (${rows.ok[index]}/${view.seed[index]})`);
  if (asr !== null) {
    button.style.setProperty("--heat", asr);
    if (asr >= WARM) button.classList.add(asr >= HOT ? "hot" : "warm");
  }
  return button;
}

function tipOfEntry(button) {
  const view = button.dataset.tip === "row" ? rowView : cellView, cell = Number(button.dataset.cell);
  const index = view === rowView ? cells.row[cell] : cell;
  const lines = [PARTS.map((part) => labels[part][view[part][index]][0]).join(" / ")];
  if (view.cacc[index] !== null) lines.push(`CACC ${deviated("cacc")(view, index)}`);
  if (view.asr[index] !== null) lines.push(`ASR ${deviated("asr")(view, index)}`, `base ${fixed(view.base[index])}, floor ${fixed(view.floor[index])}`);
  lines.push(view === rowView ? `seeds: ${statusOf(view, index)}` : `seed ${view.seed[index]}: ${statusOf(view, index)}`);
  return lines.join("\n");
}

// ---- tips: on hover and on focus

const tip = byId("tip");
function showTip(target) {
  tip.textContent = target.dataset.tip === "row" || target.dataset.tip === "cell" ? tipOfEntry(target) : target.getAttribute("aria-label");
  tip.hidden = false;
  const box = target.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const above = box.top - own.height - 6;
  tip.style.left = `${Math.max(4, Math.min(box.left + box.width / 2 - own.width / 2, document.documentElement.clientWidth - own.width - 4))}px`;
  tip.style.top = `${above > 4 ? above : box.bottom + 6}px`;
  if (target.dataset.tip === "row" || target.dataset.tip === "cell") target.setAttribute("aria-description", tip.textContent);
}
for (const type of ["mouseover", "focusin"]) {
  document.addEventListener(type, (event) => {
    const target = event.target.closest("[data-tip]");
    if (target) showTip(target);
    else tip.hidden = true;
  });
}
document.addEventListener("focusout", () => { tip.hidden = true; });
document.addEventListener("scroll", () => { // what gets the focus may be scrolled to
  const focused = document.activeElement.closest("[data-tip]");
  if (focused && !tip.hidden) showTip(focused);
  else tip.hidden = true;
}, {capture: true, passive: true});

// ---- one cell

let details = null;
function openCell(cell) {
  details = details || JSON.parse(byId("details").textContent);
  const row = cells.row[cell], record = cells.record[cell];
  const [metrics, error, examples, whyNone, ...sections] = details.records[record];
  const names = (kind) => PARTS.map((part) => labels[part][rows[part][row]][kind]).join(" / ");
  const needs = data.needs[rows.needs[row]].map((resource) => data.resources[resource]).join(", ") || "nothing";
  const key = data.keys[record], status = data.statuses[cells.status[cell]];
  const close = make("button", {type: "button"}, "Close");
  close.addEventListener("click", () => byId("cell").close());
  const texts = (places) => places.map((place) => details.texts[place]);
  byId("cell-body").replaceChildren(
    make("div", {class: "cell-head"}, make("h2", {id: "cell-title"}, `${names(0)} / seed ${cells.seed[cell]}`), close),
    ...(cellsOfRow[row].length > 1 ? [seedButtons(row, cell)] : []),
    linesOf([
      `Status: ${status}`, `On a command line: ${names(1)} / seed ${cells.seed[cell]}`, `Kind: ${data.kinds[rows.kind[row]]}`,
      `Needs: ${needs}`, `Seconds: ${fixed(cells.seconds[cell])} (defense and evaluation)`, `Key: ${key}`, `Record: records/${key}.json`,
    ]),
    ...(error.length ? [make("h3", {}, status === "failed" ? "Why it failed" : "Why it was skipped"), make("pre", {class: "error"}, texts(error).join("\n"))] : []),
    ...(metrics.length ? [make("h3", {}, "Metrics"), metricTable(metrics)] : []),
    make("h3", {}, "Triggered test texts"),
    ...(examples.length ? [exampleList(examples, texts)] : [make("p", {class: "note"}, whyNone)]),
    make("h3", {}, "Record"),
    ...sections.map(([title, ...lines]) => make("details", {open: details.sections[title] === "spec"}, make("summary", {}, details.sections[title]), linesOf(texts(lines)))),
  );
  state.cell = key;
  remember();
  tip.hidden = true;
  if (!byId("cell").open) byId("cell").showModal();
  byId("cell").scrollTop = 0;
}

function seedButtons(row, shown) {
  const buttons = cellsOfRow[row].map((cell) => make("button", {type: "button", "data-cell": cell, "aria-pressed": String(cell === shown)}, `seed ${cells.seed[cell]}`));
  return make("div", {class: "seeds", role: "group", "aria-label": "Cells of this entry"}, ...buttons);
}

function metricTable(metrics) {
  const lines = metrics.map(([name, value, hits, count, low, high]) => {
    const interval = low === undefined ? ABSENT : `${fixed(low)} to ${fixed(high)}`;
    const [id, says] = details.metrics[name];
    const numbers = [fixed(value), `${hits.toLocaleString("en-US")} of ${count.toLocaleString("en-US")}`, interval];
    return make("tr", {}, make("td", {class: "words"}, id), ...numbers.map((text) => make("td", {}, text)), make("td", {class: "words nowrap"}, says));
  });
  const heads = ["Metric", "Per cent", "Rows", "95 % interval (Wilson)", "Share of"];
  const head = make("tr", {}, ...heads.map((text, place) => make("th", {scope: "col", class: place % 4 ? null : "words"}, text)));
  return make("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": "Metrics"}, make("table", {}, make("thead", {}, head), make("tbody", {}, ...lines)));
}

function exampleList(examples, texts) {
  return make("ul", {class: "texts"}, ...examples.map(([row, after, purified]) => {
    const [original, gold, before] = details.rows[row];
    const classes = [["Gold class", gold], ["Before the defense", before], ["After it", after]];
    return make("li", {},
      ...texts(original).map((text) => make("p", {dir: "auto"}, text)),
      ...(purified ? [make("p", {class: "label"}, "As the purifier passes it on:"), ...texts(purified).map((text) => make("p", {dir: "auto"}, text))] : []),
      make("dl", {class: "classes"}, ...classes.map(([term, place]) => make("div", {}, make("dt", {}, term), make("dd", {}, place === null ? ABSENT : details.texts[place])))));
  }));
}

// "name: value" as a term and what it is; indented lines are of the value before them
function linesOf(lines) {
  return make("dl", {class: "lines"}, ...lines.flatMap((line) => {
    const [, indent, name, value] = line.match(/^( *)(.*?)(?:: (.*)|:)?$/s);
    return [make("dt", {}, "\u2003".repeat(indent.length / 2) + name), make("dd", {}, value || "")];
  }));
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-cell]");
  if (!button) return;
  openCell(Number(button.dataset.cell));
  if (button.closest(".seeds")) byId("cell-body").querySelector('.seeds [aria-pressed="true"]').focus();
});
byId("cell").addEventListener("close", () => {
  state.cell = "";
  remember();
});
byId("cell").addEventListener("click", (event) => {
  if (event.target === byId("cell")) byId("cell").close(); // the backdrop
});

// ---- figures: clean accuracy against attack success

const WIDTH = 410, HEIGHT = 270, LEFT = 30, RIGHT = 240, TOP = 24, BOTTOM = 232, LINE = 14, LONGEST_NAME = 24;
const SHAPES = {
  repair: (x, y) => draw("circle", {class: "mark", cx: x, cy: y, r: 4}),
  detector: (x, y) => draw("rect", {class: "mark", x: x - 4, y: y - 4, width: 8, height: 8}),
  purifier: (x, y) => draw("path", {class: "mark", d: `M${x} ${y - 5}l5 9h-10z`}),
  filter: (x, y) => draw("path", {class: "mark", d: `M${x} ${y - 5}l5 5l-5 5l-5-5z`}),
  training: (x, y) => draw("path", {class: "mark", d: `M${x} ${y + 5}l5-9h-10z`}),
  "": (x, y) => draw("path", {class: "mark", d: `M${x - 4} ${y - 4}l8 8m0-8l-8 8`}),
};

function planeFigure(plane) {
  const ends = plane.points.flatMap((point) => point.cacc).concat(plane.tolerated > 0 ? [plane.tolerated] : []);
  const low = Math.min(...ends), high = Math.max(...ends), room = Math.max(0.06 * (high - low), (4 - (high - low)) / 2);
  const x = (cacc) => LEFT + ((cacc - low + room) / (high - low + 2 * room)) * (RIGHT - LEFT);
  const y = (asr) => BOTTOM - (asr / 100) * (BOTTOM - TOP);
  const step = [0.5, 1, 2, 5, 10, 20].find((size) => (high - low + 2 * room) / size <= 6) || 25;
  const ticks = [];
  for (let tick = Math.ceil((low - room) / step) * step; tick <= high + room; tick += step) ticks.push(tick);
  const parts = [0, 20, 40, 60, 80, 100].flatMap((tick) => [
    draw("line", {class: "axis", x1: LEFT, x2: RIGHT, y1: y(tick), y2: y(tick)}),
    draw("text", {class: "quiet", x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end"}, String(tick)),
  ]);
  parts.push(...ticks.map((tick) => draw("text", {class: "quiet", x: x(tick), y: BOTTOM + 15, "text-anchor": "middle"}, String(tick))));
  parts.push(draw("text", {class: "quiet", x: RIGHT, y: BOTTOM + 31, "text-anchor": "end"}, "clean accuracy (%)"), draw("text", {class: "quiet", x: 2, y: TOP - 12}, "ASR (%)"));
  if (plane.tolerated > 0) parts.push(draw("line", {class: "level", x1: x(plane.tolerated), x2: x(plane.tolerated), y1: TOP, y2: BOTTOM}));
  if (plane.base !== null) parts.push(draw("line", {class: "base", x1: LEFT, x2: RIGHT, y1: y(plane.base), y2: y(plane.base)}));
  if (plane.front.length > 1) parts.push(draw("path", {class: "front", d: plane.front.map(([cacc, asr], place) => (place ? `V${y(asr)}H${x(cacc)}` : `M${x(cacc)} ${y(asr)}`)).join("")}));
  const places = namePlaces(plane.points.map((point) => y(point.asr[0])));
  const height = Math.max(HEIGHT, ...places.map((place) => place + LINE));
  plane.points.forEach((point, number) => parts.push(draw("line", {class: "leader", x1: x(point.cacc[0]), y1: y(point.asr[0]), x2: RIGHT + 10, y2: places[number]})));
  plane.points.forEach((point, number) => parts.push(pointMark(point, x, y, places[number])));
  const notes = [
    plane.front.length > 1 ? "Thin line: Pareto front." : null,
    plane.tolerated > 0 ? `Dashed: ${plane.tolerance} points of CACC lost, the most that is tolerated.` : null,
    plane.base !== null ? "Dotted: base rate of the undefended victims." : null,
    "Hollow: without a rank.",
  ].filter(Boolean);
  const svg = draw("svg", {viewBox: `0 0 ${WIDTH} ${height}`, role: "group", "aria-label": `${plane.title}: clean accuracy against attack success rate`}, ...parts);
  return make("figure", {}, svg, make("figcaption", {}, make("strong", {}, plane.title), notes.join(" ")));
}

function pointMark(point, x, y, nameY) {
  const [cacc, caccLow, caccHigh] = point.cacc, [asr, asrLow, asrHigh] = point.asr;
  const interval = (low, high) => (low === undefined ? "" : ` [${fixed(low)}, ${fixed(high)}]`);
  const rank = point.kind === "" ? "the victims themselves" : point.unranked || `rank ${point.rank}`;
  const says = `${point.name}: CACC ${fixed(cacc)}${interval(caccLow, caccHigh)}, ASR ${fixed(asr)}${interval(asrLow, asrHigh)}; ${rank}`;
  const name = point.name.length > LONGEST_NAME ? `${point.name.slice(0, LONGEST_NAME - 1)}…` : point.name;
  const hollow = point.kind !== "" && point.rank === ABSENT ? " hollow" : "";
  return draw("g", {class: `point ${point.kind || "undefended"}${hollow}`, tabindex: 0, role: "img", "aria-label": says, "data-tip": "point"},
    caccLow === undefined ? null : draw("line", {x1: x(caccLow), x2: x(caccHigh), y1: y(asr), y2: y(asr)}),
    asrLow === undefined ? null : draw("line", {x1: x(cacc), x2: x(cacc), y1: y(asrLow), y2: y(asrHigh)}),
    SHAPES[point.kind](x(cacc), y(asr)),
    draw("text", {x: RIGHT + 14, y: nameY + 4}, name));
}

// Heights of names, as near to the wanted ones as there is room, from the top down and then, if they run out, from the bottom up.
function namePlaces(wanted) {
  const order = wanted.map((_, number) => number).sort((one, other) => wanted[one] - wanted[other] || one - other);
  const bottom = Math.max(BOTTOM, TOP + (wanted.length - 1) * LINE), places = [];
  let last = TOP - LINE;
  for (const number of order) last = places[number] = Math.max(wanted[number], last + LINE);
  let next = bottom + LINE;
  for (const number of order.reverse()) next = places[number] = Math.min(places[number], next - LINE);
  return places;
}

// ---- tables that are in the page as it is written

function makeSortable(table) {
  const body = table.tBodies[0], lines = [...body.rows];
  const numberOf = (text) => parseFloat(text.replace(/,(?=\d{3})/g, ""));
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const texts = new Map(lines.map((line) => [line, line.cells[column].textContent]));
    const isNumeric = !head.classList.contains("words") || [...texts.values()].every((text) => text === ABSENT || !Number.isNaN(numberOf(text)));
    const compare = (one, other) => {
      if (!isNumeric) return texts.get(one).localeCompare(texts.get(other), "en", {numeric: true});
      const [first, second] = [numberOf(texts.get(one)), numberOf(texts.get(other))];
      return Number.isNaN(first) - Number.isNaN(second) || first - second;
    };
    const button = make("button", {type: "button"}, head.textContent);
    button.addEventListener("click", () => {
      const sort = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", sort);
      const absent = (line) => isNumeric && Number.isNaN(numberOf(texts.get(line)));
      const sign = sort === "ascending" ? 1 : -1;
      body.append(...[...lines].sort((one, other) => absent(one) - absent(other) || (absent(one) ? 0 : sign * compare(one, other))));
    });
    head.setAttribute("aria-sort", "none");
    head.replaceChildren(button);
  });
}

// ---- filters, and the address that keeps them

const form = byId("filters");
function buildFilters() {
  for (const part of ["task", "attack"]) {
    form.elements[part].append(...labels[part].map(([name, typed]) => make("option", {value: typed}, name)));
  }
  const seeds = [...new Set(cells.seed)].sort((one, other) => one - other);
  form.elements.seeds.append(...seeds.map((seed) => make("option", {value: seed}, `seed ${seed}`)));
  form.elements.status.append(...data.statuses.map((status) => make("option", {value: status}, status)));
  const boxes = {kind: usedKinds.map((kind) => data.kinds[kind]), resource: data.resources};
  for (const [name, values] of Object.entries(boxes)) {
    const fieldset = form.querySelector(`fieldset[name="${name}"]`);
    fieldset.append(...values.map((value) => make("label", {}, make("input", {type: "checkbox", "data-box": name, value, checked: ""}), value)));
    fieldset.hidden = values.length === 0;
  }
  form.hidden = false;
  form.addEventListener("input", () => {
    readForm();
    state.page = 0;
    show();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => {
    readForm();
    state.page = 0;
    show();
  }));
}

const boxes = (name) => [...form.querySelectorAll(`[data-box="${name}"]`)];
function readForm() {
  for (const name of ["task", "attack", "seeds", "status", "text"]) state[name] = form.elements[name].value;
  state.hidden = new Set(boxes("kind").filter((box) => !box.checked).map((box) => box.value));
  state.lacks = new Set(boxes("resource").filter((box) => !box.checked).map((box) => box.value));
}

function remember() {
  const kept = new URLSearchParams();
  for (const name of ["task", "attack", "status", "text", "sort", "cell"]) if (state[name]) kept.set(name, state[name]);
  if (state.seeds !== "mean") kept.set("seeds", state.seeds);
  for (const kind of state.hidden) kept.append("without-kind", kind);
  for (const resource of state.lacks) kept.append("lacks", resource);
  const text = kept.toString();
  if (text || location.hash.includes("=")) history.replaceState(null, "", text ? `#${text}` : "#explore");
}

function recall() {
  if (!location.hash.includes("=")) return; // none, or that of a section
  const kept = new URLSearchParams(location.hash.slice(1));
  for (const name of ["task", "attack", "status", "text", "seeds"]) {
    form.elements[name].value = kept.get(name) || (name === "seeds" ? "mean" : "");
    if (form.elements[name].selectedIndex === -1) form.elements[name].selectedIndex = 0; // a value that this page does not have
  }
  for (const box of boxes("kind")) box.checked = !kept.getAll("without-kind").includes(box.value);
  for (const box of boxes("resource")) box.checked = !kept.getAll("lacks").includes(box.value);
  readForm();
  state.sort = kept.get("sort") || "";
  state.cell = kept.get("cell") || "";
}

function show(withMatrices = true) {
  const matches = matcher();
  if (withMatrices) showMatrices(matches);
  showList(matches);
  remember();
}

function showAll() {
  recall();
  const record = state.cell ? data.keys.findIndex((key) => key.startsWith(state.cell)) : -1;
  show();
  if (record >= 0) openCell(cells.record.indexOf(record));
}

function turnPage(step) {
  state.page += step;
  show(false);
  byId("cells").scrollIntoView();
}
byId("previous").addEventListener("click", () => turnPage(-1));
byId("next").addEventListener("click", () => turnPage(1));

const theme = byId("theme"), prefersDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme || (prefersDark.matches ? "dark" : "light")) === "dark";
const showTheme = () => theme.setAttribute("aria-pressed", String(isDark()));
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
});
prefersDark.addEventListener("change", showTheme);
showTheme();
theme.hidden = false;

document.querySelectorAll("table.sortable").forEach(makeSortable);
if (byId("planes")) byId("planes").append(...data.planes.filter((plane) => plane.points.length).map(planeFigure));
buildFilters();
showAll();
addEventListener("hashchange", showAll);
})();
