"use strict";
// Runs, their numbers and their pictures come as one JSON (explorer.py says how it is made). The state is a
// few words in the address; everything on the page is drawn from it.

const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const SIDES = ["left", "right"];
const unique = list => [...new Set(list)];
const text = value => String(value).replace(/[&<>"]/g, c => `&#${c.charCodeAt(0)};`);
const signs = value =>  // G_n as it is printed
  text(value).replace(/\b([DGE])_(\w+)/g, "<i>$1</i><sub>$2</sub>");
let state = {};

// ---- which runs there are

const runsOf = study => DATA.studies.find(s => s.name === study).runs.map(i => DATA.runs[i]);
const setting = s => runsOf(s.study).filter(r => r.paradigm === s.paradigm && String(r.n) === s.n);
const armOf = (s, side) => setting(s).filter(r => r.strategy === s[side] && r.variant === s[`${side}_with`]);
const seedsOf = (s, side) => armOf(s, side).map(r => String(r.seed));
const lastOf = runs => Math.max(...runs.map(r => r.iterations));

function prefer(allowed, ...wanted) {
  return wanted.find(w => allowed.includes(w)) ?? allowed[0];
}

function commonSeeds(s) {
  const left = seedsOf(s, "left");
  return s.right === "none" ? left : left.filter(seed => seedsOf(s, "right").includes(seed));
}

function resolve(want) {  // the state that is nearest to what is wanted, of those that are in the records
  const s = {study: prefer(DATA.studies.map(x => x.name), want.study)};
  const runs = runsOf(s.study);
  s.paradigm = prefer(unique(runs.map(r => r.paradigm)), want.paradigm, "accumulate");
  s.n = prefer(unique(runs.filter(r => r.paradigm === s.paradigm).map(r => String(r.n))), want.n);
  const there = setting(s), strategies = unique(there.map(r => r.strategy));
  const variants = name => unique(there.filter(r => r.strategy === name).map(r => r.variant));
  s.left = prefer(strategies, want.left, "vanilla");
  s.left_with = prefer(variants(s.left), want.left_with);
  const another = strategies.find(x => x !== s.left) ?? "none";
  s.right = prefer([...strategies, "none"], want.right, "greedy", another);
  if (!want.right && s.right === s.left) s.right = "none";
  s.right_with = s.right === "none" ? "" : prefer(variants(s.right), want.right_with, s.left_with);
  const seeds = commonSeeds(s);
  s.seed = prefer([...seeds, "mean"], want.seed);
  const ends = SIDES.filter(side => s[side] !== "none").map(side => lastOf(shownRuns(s, side)));
  s.last = Math.min(...ends);
  const n = Math.round(Number(want.iteration ?? s.last));
  s.iteration = Math.min(Math.max(1, Number.isFinite(n) ? n : s.last), s.last);
  return s;
}

const shownRuns = (s, side) =>
  armOf(s, side).filter(r => s.seed === "mean" || String(r.seed) === s.seed);

// ---- the state in the address

const KEYS = ["study", "paradigm", "n", "left", "left_with", "right", "right_with", "seed", "iteration"];

function writeLink() {
  const link = new URLSearchParams(KEYS.filter(k => state[k] !== "").map(k => [k, state[k]]));
  history.replaceState(null, "", `#${link}`);
}

function readLink() {
  const want = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  state = resolve(want);
  const lost = KEYS.filter(k => want[k] && want[k] !== String(state[k]));
  $("note").hidden = !lost.length;
  const asked = lost.map(k => `${k.replace("_", " ")} ${want[k]}`).join(", ");
  $("note").textContent = `The link asks for ${asked}: that is not recorded. Shown is the nearest.`;
  draw();
}

function change(more) {
  const carry = {};
  if ("left_with" in more && state.right_with === state.left_with) carry.right_with = more.left_with;
  const atEnd = state.iteration === state.last && !("iteration" in more);
  state = resolve({...state, ...carry, ...more, ...(atEnd ? {iteration: undefined} : {})});
  $("note").hidden = true;
  draw();
}

// ---- numbers

function valueOf(s, side, metric, n) {  // of the seed that is shown, or the mean of all that reached n
  const found = shownRuns(s, side).map(r => r.values[metric]?.[n - 1]).filter(v => v != null);
  return found.length ? found.reduce((a, b) => a + b) / found.length : null;
}

function shown(metric, value) {
  if (value == null) return "–";
  if (metric.percent && !value) return "0%";
  if (metric.percent) return `${(100 * value).toFixed(value < .0995 ? 1 : 0)}%`;
  return value.toFixed(metric.digits);
}

const nameOf = (s, side) => {
  const variant = s[`${side}_with`], same = SIDES.every(x => s[x] === s.left);
  return DATA.strategies[s[side]].title + (variant && same ? `, ${variant}` : "");
};
const sidesOf = s => SIDES.filter(side => s[side] !== "none");
const hollow = (s, side) => side === "right" && s.left === s.right;  // two runs of one strategy
const colour = (s, side) => {
  const look = DATA.strategies[s[side]];
  return `--c: light-dark(${look.color}, ${look.dark})`;
};

// ---- charts: text of SVG, 148 units high

const X0 = 34, Y0 = 126, Y1 = 8, NARROW = 312, WIDE = 552;  // the plot's edges; two right ones
const xOf = (n, last, end) => last === 1 ? (X0 + end) / 2 : X0 + 16 + (n - 1) / (last - 1) * (end - X0 - 32);
const svg = (label, last, end, inside) => `<svg class="plot" data-last="${last}" data-end="${end}" ` +
  `viewBox="0 0 ${end + 8} 148" role="img" aria-label="${text(label)}">${inside}</svg>`;

function marker(kind, x, y, size, more = "") {
  const shapes = {o: "M-1 0a1 1 0 1 0 2 0a1 1 0 1 0 -2 0", s: "M-1 -1H1V1H-1Z", "^": "M0 -1.2L1.1 1H-1.1Z",
    v: "M0 1.2L1.1 -1H-1.1Z", D: "M0 -1.3L1.3 0L0 1.3L-1.3 0Z"};
  return `<path class="dot ${more}" d="${shapes[kind] ?? shapes.D}"
    transform="translate(${x} ${y}) scale(${size})"/>`;
}

function swatch(s, side) {
  const look = DATA.strategies[s[side]];
  return `<svg class="mark" viewBox="0 0 34 12" aria-hidden="true" style="${colour(s, side)}">` +
    `<path class="curve" stroke-dasharray="${hollow(s, side) ? "2 2" : look.dash}" d="M1 6H33"/>` +
    marker(look.marker, 17, 6, 3.4, hollow(s, side) ? "hollow" : "") + "</svg>";
}

function ticks(low, high) {  // three or four round numbers
  const raw = (high - low) / 3, base = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map(k => k * base).find(k => k >= raw);
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++)
    out.push(+(i * step).toPrecision(6));
  return out;
}

function axes(last, end, now, marks, yOf, show) {
  const lines = marks.map(v => `<path class="grid" d="M${X0} ${yOf(v)}H${end}"/>` +
    `<text x="${X0 - 5}" y="${yOf(v) + 3.5}" text-anchor="end">${show(v)}</text>`);
  const every = Math.ceil(last / 12);
  for (let n = 1; n <= last; n += every)
    lines.push(`<text x="${xOf(n, last, end)}" y="141" text-anchor="middle">${n}</text>`);
  return lines.join("") + `<path class="now" d="M${xOf(now, last, end)} ${Y1 - 4}V${Y0}"/>`;
}

const path = (points, x, y) => points.filter(p => p[1] != null)
  .map((p, i) => `${i ? "L" : "M"}${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("");
const range = last => Array.from({length: last}, (_, i) => i + 1);

function lineChart(s, metric) {
  const sides = sidesOf(s), last = Math.max(...sides.map(side => lastOf(armOf(s, side))));
  const lines = sides.map(side => range(last).map(n => [n, valueOf(s, side, metric.name, n)]));
  const seeds = sides.flatMap(side => armOf(s, side).map(r => [side, r.values[metric.name] ?? []]));
  const refs = sides.map(side => shownRuns(s, side)[0].values[metric.reference]?.[0]).filter(v => v != null);
  const mine = lines.flat().map(p => p[1]).filter(v => v != null);
  if (!mine.length) return "";
  const others = seeds.flatMap(x => x[1]);
  const every = [...mine, ...others, ...refs, metric.low, metric.high].filter(v => v != null);
  let low = Math.min(...every), high = Math.max(...every);
  const room = (high - low || 1) * .08;
  high += room;
  if (metric.low == null) low -= room;
  const yOf = v => Y0 - (v - low) / (high - low) * (Y0 - Y1), x = n => xOf(n, last, NARROW);
  const show = v => metric.percent ? `${+(100 * v).toPrecision(4)}%` : `${+v.toPrecision(5)}`;
  const parts = [axes(last, NARROW, s.iteration, ticks(low, high), yOf, show)];
  if (refs.length) {
    const y = yOf(refs[0]), middle = (X0 + NARROW) / 2, words = text(metric.reference_title);
    parts.push(`<path class="ref" d="M${X0} ${y}H${NARROW}"/>
      <text class="halo" x="${middle}" y="${y - 4}" text-anchor="middle">${words}</text>`);
  }
  for (const [side, values] of seeds) {
    const line = path(values.map((v, i) => [i + 1, v]), x, yOf);
    parts.push(`<path class="curve thin" style="${colour(s, side)}" d="${line}"/>`);
  }
  sides.forEach((side, i) => {
    const look = DATA.strategies[s[side]], empty = hollow(s, side) ? "hollow" : "";
    const dots = lines[i].filter(p => p[1] != null)
      .map(p => marker(look.marker, x(p[0]), yOf(p[1]), p[0] === s.iteration ? 4.6 : 2.2, empty));
    const dash = empty ? "2 2" : look.dash, line = path(lines[i], x, yOf);
    parts.push(`<g style="${colour(s, side)}"><path class="curve" stroke-dasharray="${dash}" d="${line}"/>
      ${dots.join("")}</g>`);
  });
  const told = sides.map((side, i) =>
    `${nameOf(s, side)}: ${lines[i].map(p => shown(metric, p[1])).join(", ")}`).join(". ");
  const label = `${metric.title} over iterations 1 to ${last}; the slider is at ${s.iteration}. ${told}`;
  return svg(label, last, NARROW, parts.join(""));
}

// ---- where training images come from

function sharesOf(s, side, n) {  // source -> share of D_n
  const rows = shownRuns(s, side).map(r => r.share[n - 1]).filter(Boolean);
  const longest = Math.max(0, ...rows.map(row => row.length));
  return range(longest).map(i => rows.reduce((sum, row) => sum + row[i - 1], 0) / rows.length);
}

const sourceName = i => i ? `G_${i}` : "real";

function sourceChart(s, side) {
  const last = lastOf(shownRuns(s, side)), shares = range(last).map(n => sharesOf(s, side, n));
  const count = Math.max(...shares.map(x => x.length)), width = Math.min(36, .8 * (WIDE - X0 - 32) / last);
  const yOf = v => Y0 - v * (Y0 - Y1), bars = [];
  shares.forEach((parts, at) => {
    const n = at + 1, x = xOf(n, last, WIDE);
    let sum = 0;
    bars.push(`<g opacity="${n === s.iteration ? 1 : .45}">`);
    parts.forEach((v, i) => {
      sum += v;
      bars.push(`<rect x="${x - width / 2}" y="${yOf(sum)}" width="${width}" height="${v * (Y0 - Y1)}"
        fill="${DATA.sources[i]}"/>`);
    });
    bars.push("</g>");
  });
  if (s.paradigm === "accumulate") {
    const equal = path(range(last).map(n => [n, 1 / n]), n => xOf(n, last, WIDE), yOf);
    bars.push(`<path d="${equal}" fill="none" stroke="var(--ink)"/>`);
  }
  const now = shares[s.iteration - 1], told = now.map((v, i) => `${sourceName(i)} ${(100 * v).toFixed(0)}%`);
  const words = told.filter((_, i) => now[i] > 0).join(", ");
  const set = `D_${s.iteration}`, name = text(nameOf(s, side));
  const label = `${nameOf(s, side)}: sources of the training sets D_1 to D_${last}. ${set}: ${words}`;
  const frame = axes(last, WIDE, s.iteration, [0, .5, 1], yOf, v => `${100 * v}%`);
  const keys = range(count).map(i =>
    `<span><b style="--c:${DATA.sources[i - 1]}"></b>${signs(sourceName(i - 1))}</span>`);
  const equal = s.paradigm === "accumulate" ? "<span>line: equal shares, 1/n</span>" : "";
  return `<section aria-label="${name}"><h3>${swatchLine(s, side)}</h3>
    <p class="about">${signs(set)}, the training set of iteration ${s.iteration}: ${signs(words)}</p>
    ${svg(label, last, WIDE, frame + bars.join(""))}
    <p class="legend">${keys.join("")}${equal}</p></section>`;
}

const swatchLine = (s, side) => `<span class="named">${swatch(s, side)}${text(nameOf(s, side))}</span>`;

// ---- pictures

const sprites = new Map();
function spriteOf(run) {
  if (!sprites.has(run.config)) {
    const image = new Image();
    image.src = run.pictures.sprite;
    sprites.set(run.config, image.decode().then(() => image));
  }
  return sprites.get(run.config);
}

async function paint(box, run, n) {
  const image = await spriteOf(run), {height: h, width: w, iterations} = run.pictures;
  box.querySelectorAll("canvas").forEach(canvas => {
    const {column, row} = canvas.dataset, y = 2 * iterations.indexOf(n) + Number(row);
    canvas.getContext("2d").drawImage(image, column * w, y * h, w, h, 0, 0, w, h);
  });
}

function drawPictures(side) {
  const box = $(side).querySelector(".pictures"), s = state, n = s.iteration;
  const run = armOf(s, side).find(r => r.pictures?.iterations.includes(n));
  box.style = s[side] === "none" ? "" : colour(s, side);
  if (!run) {
    const kept = armOf(s, side).find(r => r.pictures)?.pictures.iterations;
    const why = kept ? `Pictures are kept of iterations ${kept.join(", ")} alone.` : "No pictures are kept.";
    box.innerHTML = `<p class="none">${why}</p>`;
    return;
  }
  const {height, width, gray, iterations, distances} = run.pictures;
  const far = distances[iterations.indexOf(n)], unit = run.values.gs_unseen?.[n - 1];
  const what = unit ? "its distance, over the mean one of unseen samples" : "its distance (pixels 0..255)";
  const words = far.map(d => unit ? (d / unit).toFixed(2) : d.toFixed(0));
  const label = `${far.length} samples of iteration ${n} of ${nameOf(s, side)}, seed ${run.seed}, each above ` +
    `its nearest training image. Below each pair ${what}: ${words.join(", ")}`;
  const tiles = row => far.map((_, i) =>
    `<canvas width="${width}" height="${height}" data-column="${i}" data-row="${row}"></canvas>`).join("");
  const bars = far.map((d, i) => {
    const part = unit ? Math.min(100, 100 * d / unit) : 0;
    return `<span class="far"><i style="--part:${part.toFixed(0)}%"></i>${words[i]}</span>`;
  }).join("");
  let whose = "";
  if (s.seed !== String(run.seed))
    whose = `<p class="hint">Pictures are kept of seed ${run.seed} alone: these are its.</p>`;
  box.innerHTML = `<div class="rows ${gray ? "gray" : ""}" style="--count:${far.length}" role="img"
    aria-label="${text(label)}"><p>Samples of iteration ${n}</p>${tiles(0)}
    <p>The training image nearest to each</p>${tiles(1)}${bars}</div>${whose}`;
  paint(box, run, n);
}

// ---- the page

function fill(select, options, value) {  // options: [value, words, why it cannot be chosen]
  const html = options.map(([v, words, why]) => why
    ? `<option value="${text(v)}" disabled>${text(words)} (${text(why)})</option>`
    : `<option value="${text(v)}">${text(words)}</option>`).join("");
  if (select.dataset.html !== html) { select.innerHTML = html; select.dataset.html = html; }
  select.value = value;
}

const offer = (values, there, why, words = String) =>
  unique(values).map(v => [v, words(v), there.includes(v) ? "" : why]);

const bySize = (a, b) => a - b;

function drawChoices() {
  const s = state, runs = runsOf(s.study), there = setting(s);
  const under = runs.filter(r => r.paradigm === s.paradigm), sizes = runs.map(r => String(r.n)).sort(bySize);
  const title = v => DATA.paradigms.find(p => p[0] === v)[1];
  fill($("study"), DATA.studies.map(x => [x.name, x.title]), s.study);
  const paradigms = DATA.paradigms.map(p => p[0]);
  fill($("paradigm"), offer(paradigms, runs.map(r => r.paradigm), "not in this study", title), s.paradigm);
  fill($("n"), offer(sizes, under.map(r => String(r.n)), `not with ${s.paradigm}`), s.n);
  const seeds = unique([...there.map(r => String(r.seed))]).sort(bySize);
  const mean = ["mean", "mean of all", seeds.length > 1 ? "" : "there is one"];
  fill($("seed"), [...offer(seeds, commonSeeds(s), "not recorded of both"), mean], s.seed);
  for (const side of SIDES) drawChoicesOf(side, runs, there);
}

function drawChoicesOf(side, runs, there) {
  const s = state, shows = s[side] !== "none", mine = r => r.strategy === s[side];
  const options = offer(Object.keys(DATA.strategies), there.map(r => r.strategy), "not in these records",
    v => DATA.strategies[v].title);
  if (side === "right") options.push(["none", "nothing beside it", ""]);
  fill($(`${side}_name`), options, s[side]);
  const all = unique(runs.filter(mine).map(r => r.variant)), here = there.filter(mine).map(r => r.variant);
  const base = DATA.studies.find(x => x.name === s.study).base;
  const variants = offer(all, here, `not with ${s.paradigm}, N = ${s.n}`, v => v || base);
  fill($(`${side}_with`), variants, s[`${side}_with`]);
  $(`${side}_with`).hidden = all.length < 2;
  $(side).querySelector(".about").textContent = shows ? DATA.strategies[s[side]].about : "";
  $(side).style = shows ? colour(s, side) : "";
}

function drawSide(side) {
  const s = state, box = $(side), change = box.querySelector(".change");
  $(side).querySelector(".pictures").hidden = change.hidden = s[side] === "none";
  if (s[side] === "none") return;
  drawPictures(side);
  const since = DATA.metrics.filter(m => m.headline).map(m => {
    const [first, now] = [1, s.iteration].map(n => shown(m, valueOf(s, side, m.name, n)));
    return s.iteration === 1 ? `${m.short} ${now}` : `${m.short} ${first} → ${now}`;
  });
  change.textContent = `${s.iteration === 1 ? "At iteration 1" : "Since iteration 1"}: ${since.join("; ")}.`;
}

function drawTable() {
  const s = state, sides = sidesOf(s), columns = DATA.metrics.flatMap(m => sides.map(side => [m, side]));
  const heads = columns.map(([m, side]) =>
    `<th scope="col">${signs(m.title)}<br>${text(nameOf(s, side))}</th>`).join("");
  const rows = range(s.last).map(n => {
    const cells = columns.map(([m, side]) => {
      const value = valueOf(s, side, m.name, n);
      const digits = value == null ? "" : +value.toPrecision(6);  // as in the records
      return `<td data-metric="${m.name}" data-side="${side}">${digits}</td>`;
    });
    return `<tr class="${n === s.iteration ? "at" : ""}"><th scope="row">${n}</th>${cells.join("")}</tr>`;
  });
  $("table").innerHTML = `<table><caption class="unseen">Numbers of every iteration</caption><thead>
    <tr><th scope="col">iteration</th>${heads}</tr></thead><tbody>${rows.join("")}</tbody></table>`;
}

function spaceOf(s, metric) {
  const spaces = sidesOf(s).map(side => shownRuns(s, side)[0].spaces[metric.name]).filter(Boolean);
  return unique(spaces).join(" and ") || "not measured";
}

function card(s, m) {
  const values = sidesOf(s).map(side => `<div><dt>${swatchLine(s, side)}</dt>
    <dd data-side="${side}">${shown(m, valueOf(s, side, m.name, s.iteration))}</dd></div>`);
  return `<article class="card" id="card-${m.name}"><h3>${text(m.question)}</h3>
    <p class="about">${signs(m.title)}, ${text(spaceOf(s, m))}</p><dl class="values">${values.join("")}</dl>
    ${lineChart(s, m)}<p class="says">${text(m.says)}</p></article>`;
}

function inWords(s, side) {
  const numbers = DATA.metrics.map(m => `${m.short} ${shown(m, valueOf(s, side, m.name, s.iteration))}`);
  return `${nameOf(s, side)}: ${numbers.join(", ")}.`;
}

function draw() {
  const s = state, sides = sidesOf(s), slider = $("iteration");
  drawChoices();
  SIDES.forEach(drawSide);
  slider.max = s.last;
  slider.value = s.iteration;
  slider.setAttribute("aria-valuetext", `iteration ${s.iteration} of ${s.last}`);
  $("steps").innerHTML = range(s.last).map(n => `<option value="${n}"></option>`).join("");
  $("now").textContent = `${s.iteration} of ${s.last}`;
  const whose = s.seed === "mean" ? "Means over all seeds" : `Seed ${s.seed}; thin lines are the other seeds`;
  $("means").textContent = `${whose}. The upright line is the slider; a click on a chart moves it.`;
  $("cards").innerHTML = DATA.metrics.map(m => card(s, m)).join("");
  $("sources").innerHTML = sides.map(side => sourceChart(s, side)).join("");
  const words = sides.map(side => inWords(s, side)).join(" ");
  $("status").textContent = `Iteration ${s.iteration} of ${s.last}. ${words}`;
  drawTable();
  const runs = sides.flatMap(side => shownRuns(s, side)), each = list => unique(list).join(", ");
  $("origin").textContent = `Drawn from ${each(runs.map(r => r.table))}: runs ${each(runs.map(r => r.config))}, ` +
    `computed at commit ${each(runs.flatMap(r => r.commits))}.`;
  writeLink();
}

let timer = 0;
function play(on) {
  clearInterval(timer);
  const step = () => state.iteration < state.last ? change({iteration: state.iteration + 1}) : play(false);
  timer = on ? setInterval(step, 900) : 0;
  $("play").innerHTML = on ? "&#10074;&#10074; Pause" : "&#9654; Play";
  $("play").setAttribute("aria-label", on ? "Pause" : "Play the iterations");
  $("status").setAttribute("aria-live", on ? "off" : "polite");  // nobody wants to hear all of them
}

function start() {
  for (const side of SIDES) {
    const word = side === "left" ? "Training images chosen by" : "Beside it: chosen by";
    $(side).innerHTML = `<div class="chooser"><label>${word} <select id="${side}_name"></select></label>
      <select id="${side}_with" aria-label="${word}: with which setting"></select></div>
      <p class="about"></p><div class="pictures"></div><p class="change"></p>`;
    $(`${side}_name`).onchange = e => change({[side]: e.target.value});
    $(`${side}_with`).onchange = e => change({[`${side}_with`]: e.target.value});
  }
  for (const key of ["study", "paradigm", "n", "seed"])
    $(key).onchange = e => change({[key]: e.target.value});
  $("choices").onsubmit = e => e.preventDefault();
  $("iteration").oninput = e => { play(false); change({iteration: Number(e.target.value)}); };
  $("play").onclick = () => {
    if (!timer && state.iteration === state.last) change({iteration: 1});
    play(!timer);
  };
  document.onkeydown = e => {  // also where the slider has no focus
    const step = {ArrowLeft: -1, ArrowRight: 1}[e.key];
    if (!step || e.altKey || e.ctrlKey || e.metaKey || e.target.closest("select, input, .wide")) return;
    e.preventDefault();
    play(false);
    change({iteration: state.iteration + step});
  };
  $("cards").onclick = $("sources").onclick = e => {
    const chart = e.target.closest("svg.plot");
    if (!chart) return;
    const place = chart.getBoundingClientRect(), last = +chart.dataset.last, end = +chart.dataset.end;
    const x = (e.clientX - place.left) / place.width * (end + 8);
    change({iteration: Math.round(1 + (x - X0 - 16) / (end - X0 - 32) * (last - 1))});
  };
  window.onhashchange = readLink;
  readLink();
}

start();
