"use strict";
// The page's own script. Names and texts of others become text nodes and attributes, never markup.
(() => {
const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const {labels, rows, cells} = data;
const ABSENT = "–";
const ROWS_A_PAGE = 50;
// From there on an entry's text takes the other color, in the dark theme and in the light one: a contrast of 4.5 everywhere.
const WARM = 58.5, HOT = 78;
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
const grouped = (number) =>
  number === null ? ABSENT : number.toLocaleString("en-US", {minimumFractionDigits: 1, maximumFractionDigits: 1});
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

const CHOICES = ["task", "attack", "seeds", "status", "text"]; // fields of the form
const state = {
  task: "", attack: "", seeds: "mean", status: "", text: "",
  hiddenKinds: new Set(), lacks: new Set(), // resources that the defender has not
  sort: "", page: 0, cell: "", // a column's name, with a minus if descending; the key of the opened cell
};

function matcher() {
  const place = (part) => labels[part].findIndex((names) => names[1] === state[part]);
  const task = place("task"), attack = place("attack");
  const status = data.statuses.indexOf(state.status);
  const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
  const seed = /^\d+$/.test(state.seeds) ? Number(state.seeds) : null;
  const hasNeeds = data.needs.map((needs) => needs.every((resource) => !state.lacks.has(data.resources[resource])));
  const isNamed = (view, index, word) => PARTS.some((part) => lowered[part][view[part][index]].includes(word));
  const hasKey = (view, index, word) => view === cellView && data.keys[cells.record[index]].startsWith(word);
  return (view, index) =>
    (task < 0 || view.task[index] === task) &&
    (attack < 0 || view.attack[index] === attack) &&
    !state.hiddenKinds.has(data.kinds[view.kind[index]]) &&
    hasNeeds[view.needs[index]] &&
    (status < 0 || view.hasStatus(index, status)) &&
    (seed === null || view !== cellView || view.seed[index] === seed) &&
    words.every((word) => isNamed(view, index, word) || hasKey(view, index, word));
}

// ---- the list of cells

const nameOf = (part, view, index) => labels[part][view[part][index]][0];
const deviated = (name) => (view, index) => {
  const deviation = view === rowView ? rows[`${name}_std`][index] : null;
  return fixed(view[name][index]) + (deviation === null ? "" : ` ± ${fixed(deviation)}`);
};
const ofLabel = (id, head) => ({id, head, words: true, show: (view, index) => nameOf(id, view, index)});
const ofNumber = (id, head, show = (view, index) => fixed(view[id][index])) => ({id, head, show});
const hasFrr = rows.frr.some((rate) => rate !== null);
const COLUMNS = [
  ofLabel("task", "Task"), ofLabel("attack", "Attack"), ofLabel("defense", "Defense"),
  {id: "kind", head: "Kind", words: true, show: (view, index) => data.kinds[view.kind[index]]},
  ofNumber("seed", "Seed", (view, index) => String(view.seed[index])),
  {id: "status", head: "Status", words: true, show: (view, index) => statusOf(view, index)},
  ofNumber("cacc", "CACC", deviated("cacc")), ofNumber("asr", "ASR", deviated("asr")), ofNumber("base", "Base"),
  ofNumber("added", "ASR - base", (view, index) => signed(view.added[index])), ofNumber("floor", "Floor"),
  ...(hasFrr ? [ofNumber("frr", "FRR")] : []),
  ofNumber("seconds", "Seconds", (view, index) => grouped(view.seconds[index])),
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
  const places = `${first + 1} to ${first + page.length} of ${indices.length.toLocaleString("en-US")}`;
  byId("page").textContent = indices.length ? places : "no cell fits the filters";
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
    const tables = indices ? [matrix(view, indices, JSON.parse(section.dataset.marks))] : [];
    section.querySelector(".scroll").replaceChildren(...tables);
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
    const row = attacks.map((attack) => entry(view, entries.get(`${defense} ${attack}`)));
    return make("tr", {}, make("th", {scope: "row"}, labels.defense[defense][0]), ...row);
  });
  const head = make("tr", {}, make("th", {scope: "col"}, "Defense", make("small", {}, "CACC / ASR")), ...heads);
  return make("table", {class: "matrix"}, make("thead", {}, head), make("tbody", {}, ...body));
}

function entry(view, index) {
  if (index === undefined) return make("td", {}, ABSENT);
  const cacc = view.cacc[index], asr = view.asr[index];
  const text = cacc === null ? data.statuses[view.status[index]] : `${fixed(cacc)} / ${fixed(asr)}`;
  const lacksSeeds = view === rowView && rows.ok[index] > 0 && rows.ok[index] < view.seed[index];
  const share = lacksSeeds ? ` (${rows.ok[index]}/${view.seed[index]})` : "";
  const cell = view === cellView ? index : cellsOfRow[index][0];
  const tipOf = view === rowView ? "row" : "cell";
  const attributes = {type: "button", "aria-haspopup": "dialog", "data-cell": cell, "data-tip": tipOf};
  const button = make("button", attributes, text + share);
  const place = make("td", {class: asr >= HOT ? "hot" : asr >= WARM ? "warm" : null}, button);
  if (asr !== null) place.style.setProperty("--heat", asr);
  return place;
}

function tipOfEntry(button) {
  const view = button.dataset.tip === "row" ? rowView : cellView, cell = Number(button.dataset.cell);
  const index = view === rowView ? cells.row[cell] : cell;
  const lines = [PARTS.map((part) => nameOf(part, view, index)).join(" / ")];
  if (view.cacc[index] !== null) lines.push(`CACC ${deviated("cacc")(view, index)}`);
  if (view.asr[index] !== null) {
    lines.push(`ASR ${deviated("asr")(view, index)}`, `base ${fixed(view.base[index])}, floor ${fixed(view.floor[index])}`);
  }
  lines.push(view === rowView ? `seeds: ${statusOf(view, index)}` : `seed ${view.seed[index]}: ${statusOf(view, index)}`);
  return lines.join("\n");
}

// ---- tips: on hover and on focus

const tip = byId("tip");
function showTip(target) {
  const isEntry = target.dataset.tip !== "point";
  tip.textContent = isEntry ? tipOfEntry(target) : target.getAttribute("aria-label");
  tip.hidden = false;
  const box = target.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const above = box.top - own.height - 6;
  const rightmost = document.documentElement.clientWidth - own.width - 4;
  tip.style.left = `${Math.max(4, Math.min(box.left + box.width / 2 - own.width / 2, rightmost))}px`;
  tip.style.top = `${above > 4 ? above : box.bottom + 6}px`;
  if (isEntry) target.setAttribute("aria-description", tip.textContent);
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

let details = null; // parsed when a cell is opened first
function openCell(cell) {
  details = details || JSON.parse(byId("details").textContent);
  const row = cells.row[cell], key = data.keys[cells.record[cell]];
  const names = (kind) => PARTS.map((part) => labels[part][rows[part][row]][kind]).join(" / ") + ` / seed ${cells.seed[cell]}`;
  const [metrics, error, examples, whyNone, ...sections] = details.records[cells.record[cell]];
  const close = make("button", {type: "button"}, "Close");
  close.addEventListener("click", () => byId("cell").close());
  byId("cell-body").replaceChildren(
    make("div", {class: "cell-head"}, make("h2", {id: "cell-title"}, names(0)), close),
    ...(cellsOfRow[row].length > 1 ? [seedButtons(row, cell)] : []),
    linesOf(factsOf(cell, names(1))),
    ...(error.length ? errorParts(error, data.statuses[cells.status[cell]]) : []),
    ...(metrics.length ? [make("h3", {}, "Metrics"), metricTable(metrics)] : []),
    make("h3", {}, "Triggered test texts"),
    examples.length ? exampleList(examples) : make("p", {class: "note"}, whyNone),
    make("h3", {}, "Record"),
    ...sections.map(([title, ...lines]) => recordSection(details.sections[title], textsAt(lines))),
  );
  state.cell = key;
  remember();
  tip.hidden = true;
  if (!byId("cell").open) byId("cell").showModal();
  byId("cell").scrollTop = 0;
}

const textsAt = (places) => places.map((place) => details.texts[place]);

function factsOf(cell, typed) {
  const row = cells.row[cell], key = data.keys[cells.record[cell]];
  const needs = data.needs[rows.needs[row]].map((resource) => data.resources[resource]).join(", ") || "nothing";
  return [
    `Status: ${data.statuses[cells.status[cell]]}`,
    `On a command line: ${typed}`,
    `Kind: ${data.kinds[rows.kind[row]]}`,
    `Needs: ${needs}`,
    `Seconds: ${grouped(cells.seconds[cell])} (defense and evaluation)`,
    `Key: ${key}`,
    `Record: records/${key}.json`,
  ];
}

function errorParts(error, status) {
  const title = status === "failed" ? "Why it failed" : "Why it was skipped";
  return [make("h3", {}, title), make("pre", {class: "error"}, textsAt(error).join("\n"))];
}

function recordSection(title, lines) {
  return make("details", {open: title === "spec"}, make("summary", {}, title), linesOf(lines));
}

function seedButtons(row, shown) {
  const buttons = cellsOfRow[row].map((cell) => {
    const attributes = {type: "button", "data-cell": cell, "aria-pressed": String(cell === shown)};
    return make("button", attributes, `seed ${cells.seed[cell]}`);
  });
  return make("div", {class: "seeds", role: "group", "aria-label": "Cells of this entry"}, ...buttons);
}

function metricTable(metrics) {
  const words = (text) => make("td", {class: "words nowrap"}, text);
  const lines = metrics.map(([name, value, hits, count, low, high]) => {
    const [id, says] = details.metrics[name];
    const share = `${hits.toLocaleString("en-US")} of ${count.toLocaleString("en-US")}`;
    const interval = low === undefined ? ABSENT : `${fixed(low)} to ${fixed(high)}`;
    const numbers = [fixed(value), share, interval].map((text) => make("td", {}, text));
    return make("tr", {}, words(id), ...numbers, words(says));
  });
  const isWords = {Metric: "words", "Share of": "words"};
  const heads = ["Metric", "Per cent", "Rows", "95 % interval (Wilson)", "Share of"];
  const head = make("tr", {}, ...heads.map((text) => make("th", {scope: "col", class: isWords[text]}, text)));
  const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...lines));
  return make("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": "Metrics"}, table);
}

function exampleList(examples) {
  const paragraphs = (places) => textsAt(places).map((text) => make("p", {dir: "auto"}, text));
  const fact = (term, place) => {
    const text = place === null ? ABSENT : details.texts[place];
    return make("div", {}, make("dt", {}, term), make("dd", {}, text));
  };
  return make("ul", {class: "texts"}, ...examples.map(([row, after, purified]) => {
    const [original, gold, before] = details.rows[row];
    const ofPurifier = purified ? [make("p", {class: "label"}, "As the purifier passes it on:"), ...paragraphs(purified)] : [];
    const classes = [fact("Gold class", gold), fact("Before the defense", before), fact("After it", after)];
    return make("li", {}, ...paragraphs(original), ...ofPurifier, make("dl", {class: "classes"}, ...classes));
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

const WIDTH = 410, HEIGHT = 270, LEFT = 30, RIGHT = 240, TOP = 24, BOTTOM = 232, LINE = 14, LONGEST_NAME = 26;
const LEAST_SPAN = 4, MOST_TICKS = 6; // points of accuracy that the axis shows
const SHAPES = {
  repair: (x, y) => draw("circle", {class: "mark", cx: x, cy: y, r: 4}),
  detector: (x, y) => draw("rect", {class: "mark", x: x - 4, y: y - 4, width: 8, height: 8}),
  purifier: (x, y) => draw("path", {class: "mark", d: `M${x} ${y - 5}l5 9h-10z`}),
  filter: (x, y) => draw("path", {class: "mark", d: `M${x} ${y - 5}l5 5l-5 5l-5-5z`}),
  training: (x, y) => draw("path", {class: "mark", d: `M${x} ${y + 5}l5-9h-10z`}),
  "": (x, y) => draw("path", {class: "mark", d: `M${x - 4} ${y - 4}l8 8m0-8l-8 8`}),
};

const axisLine = (kind, x1, y1, x2, y2) => draw("line", {class: kind, x1, y1, x2, y2});
const axisText = (x, y, anchor, text) => draw("text", {class: "quiet", x, y, "text-anchor": anchor}, text);

function planeFigure(plane) {
  const has = {tolerated: plane.tolerated > 0, base: plane.base !== null, front: plane.front.length > 1};
  const ends = plane.points.flatMap((point) => point.cacc).concat(has.tolerated ? [plane.tolerated] : []);
  const span = Math.max(...ends) - Math.min(...ends), room = Math.max(0.06 * span, (LEAST_SPAN - span) / 2);
  const low = Math.min(...ends) - room, high = Math.max(...ends) + room;
  const x = (cacc) => LEFT + ((cacc - low) / (high - low)) * (RIGHT - LEFT);
  const y = (asr) => BOTTOM - (asr / 100) * (BOTTOM - TOP);
  const parts = [axisText(2, TOP - 12, "start", "ASR (%)"), axisText(RIGHT, BOTTOM + 31, "end", "clean accuracy (%)")];
  for (const tick of [0, 20, 40, 60, 80, 100]) {
    parts.push(axisLine("axis", LEFT, y(tick), RIGHT, y(tick)), axisText(LEFT - 6, y(tick) + 4, "end", String(tick)));
  }
  for (const tick of ticksOf(low, high)) parts.push(axisText(x(tick), BOTTOM + 15, "middle", String(tick)));
  if (has.tolerated) parts.push(axisLine("level", x(plane.tolerated), TOP, x(plane.tolerated), BOTTOM));
  if (has.base) parts.push(axisLine("base", LEFT, y(plane.base), RIGHT, y(plane.base)));
  const steps = plane.front.map(([cacc, asr], place) => (place ? `V${y(asr)}H${x(cacc)}` : `M${x(cacc)} ${y(asr)}`));
  if (has.front) parts.push(draw("path", {class: "front", d: steps.join("")}));
  const names = namePlaces(plane.points.map((point) => y(point.asr[0])));
  plane.points.forEach(({cacc: [cacc], asr: [asr]}, number) => {
    parts.push(axisLine("leader", x(cacc), y(asr), RIGHT + 10, names[number]));
  });
  plane.points.forEach((point, number) => parts.push(pointMark(point, x, y, names[number])));
  const notes = [
    has.front ? "Thin line: Pareto front." : "",
    has.tolerated ? `Dashed: ${plane.tolerance} points of CACC lost, the most that is tolerated.` : "",
    has.base ? "Dotted: base rate of the undefended victims." : "",
    "Hollow: without a rank.",
  ];
  const viewBox = `0 0 ${WIDTH} ${Math.max(HEIGHT, ...names.map((place) => place + LINE))}`;
  const says = `${plane.title}: clean accuracy against attack success rate`;
  const caption = make("figcaption", {}, make("strong", {}, plane.title), notes.filter(Boolean).join(" "));
  return make("figure", {}, draw("svg", {viewBox, role: "group", "aria-label": says}, ...parts), caption);
}

function ticksOf(low, high) {
  const step = [0.5, 1, 2, 5, 10, 20].find((size) => (high - low) / size <= MOST_TICKS) || 25;
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high; tick += step) ticks.push(tick);
  return ticks;
}

function pointMark(point, x, y, nameY) {
  const [cacc, ...caccEnds] = point.cacc, [asr, ...asrEnds] = point.asr;
  const shown = (value, ends) => fixed(value) + (ends.length ? ` [${ends.map(fixed).join(", ")}]` : "");
  const isUndefended = point.kind === "";
  const rank = isUndefended ? "the victims themselves" : point.unranked || `rank ${point.rank}`;
  const says = `${point.name}: CACC ${shown(cacc, caccEnds)}, ASR ${shown(asr, asrEnds)}; ${rank}`;
  const name = point.name.length > LONGEST_NAME ? `${point.name.slice(0, LONGEST_NAME - 1)}…` : point.name;
  const hollow = !isUndefended && point.rank === ABSENT ? " hollow" : "";
  const attributes = {class: `point ${point.kind}${hollow}`, tabindex: 0, role: "img", "aria-label": says, "data-tip": "point"};
  return draw("g", attributes,
    caccEnds.length ? axisLine("interval", x(caccEnds[0]), y(asr), x(caccEnds[1]), y(asr)) : null,
    asrEnds.length ? axisLine("interval", x(cacc), y(asrEnds[0]), x(cacc), y(asrEnds[1])) : null,
    SHAPES[point.kind](x(cacc), y(asr)),
    draw("text", {x: RIGHT + 14, y: nameY + 4}, name));
}

// Heights of names, as near to the wanted ones as there is room: from the top down, then from the bottom up if they ran out.
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

const leadingNumber = (text) => parseFloat(text.replace(/,(?=\d{3})/g, ""));

function makeSortable(table) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const press = () => {
      const sort = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", other === head ? sort : "none"));
      body.append(...sortedLines([...body.rows], column, sort === "ascending" ? 1 : -1));
    };
    const button = make("button", {type: "button"}, head.textContent);
    button.addEventListener("click", press);
    head.setAttribute("aria-sort", "none");
    head.replaceChildren(button);
  });
}

// By the numbers that the texts begin with if all do that are no dash, else by the texts; dashes stay at the end.
function sortedLines(lines, column, sign) {
  const keyed = lines.map((line) => ({line, text: line.cells[column].textContent}));
  const areNumbers = keyed.every(({text}) => text === ABSENT || !Number.isNaN(leadingNumber(text)));
  const compare = (one, other) => {
    if (one.text === ABSENT || other.text === ABSENT) return (one.text === ABSENT) - (other.text === ABSENT);
    return sign * (areNumbers ? leadingNumber(one.text) - leadingNumber(other.text) : one.text.localeCompare(other.text, "en"));
  };
  return keyed.sort(compare).map(({line}) => line);
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
    const box = (value) => make("input", {type: "checkbox", "data-box": name, value, checked: ""});
    fieldset.append(...values.map((value) => make("label", {}, box(value), value)));
    fieldset.hidden = values.length === 0;
  }
  form.hidden = false;
  const changed = () => {
    readForm();
    state.page = 0;
    show();
  };
  form.addEventListener("input", changed);
  form.addEventListener("submit", (event) => event.preventDefault());
  byId("clear").addEventListener("click", () => {
    form.reset();
    changed();
  });
}

const boxes = (name) => [...form.querySelectorAll(`[data-box="${name}"]`)];
function readForm() {
  for (const name of CHOICES) state[name] = form.elements[name].value;
  state.hiddenKinds = new Set(boxes("kind").filter((box) => !box.checked).map((box) => box.value));
  state.lacks = new Set(boxes("resource").filter((box) => !box.checked).map((box) => box.value));
}

function remember() {
  const kept = new URLSearchParams();
  for (const name of ["task", "attack", "status", "text", "sort", "cell"]) if (state[name]) kept.set(name, state[name]);
  if (state.seeds !== "mean") kept.set("seeds", state.seeds);
  for (const kind of state.hiddenKinds) kept.append("without-kind", kind);
  for (const resource of state.lacks) kept.append("lacks", resource);
  const text = kept.toString();
  if (text || location.hash.includes("=")) history.replaceState(null, "", text ? `#${text}` : "#explore");
}

function recall() {
  if (!location.hash.includes("=")) return; // none, or that of a section
  const kept = new URLSearchParams(location.hash.slice(1));
  for (const name of CHOICES) {
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
