"use strict";
(() => {
  const root = document.documentElement;
  const make = (name, attributes = {}, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value === false || value === null || value === undefined) continue;
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children);
    return node;
  };

  // Theme: what the system asks for until the button is pressed.
  const theme = document.getElementById("theme");
  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const name = () => { theme.textContent = isDark() ? "Light" : "Dark"; theme.setAttribute("aria-label", `Switch to the ${isDark() ? "light" : "dark"} theme`); };
  theme.hidden = false;
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; name(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  name();

  // Paper shows what is folded away on the screen, except what is for engineers.
  let folded = [];
  addEventListener("beforeprint", () => { folded = [...document.querySelectorAll("details:not([open], .engineers)")]; folded.forEach((each) => { each.open = true; }); });
  addEventListener("afterprint", () => folded.forEach((each) => { each.open = false; }));

  const place = document.getElementById("table");
  if (!place) return;
  const data = JSON.parse(document.getElementById("data").textContent);
  if (!data.items.length) { place.hidden = false; place.append(make("p", {}, "The audit kept no items.")); return; }

  const PER_PAGE = 20, FULL = 0, width = data.conditions.length;
  const [METRIC, NAME, GROUP, PROMPT, TRUTH, VALUES, SAID, WHY] = [0, 1, 2, 3, 4, 5, 6, 7];
  const shown = (label) => label === "full" ? "full precision" : label;
  const written = (value, digits) => { const text = value.toFixed(digits); return (Math.abs(value) >= 100 ? text.replace(/\.0$/, "") : text).replace("-", "−"); };
  const digits = () => data.metrics[state.metric].digits;
  const number = (value) => value === null || value === undefined ? "–" : written(Math.round(value * 10 ** digits()) / 10 ** digits() + 0, digits());
  const signed = (value) => value === null ? "–" : (value > 0 ? "+" : "") + number(value);
  const worst = () => {
    const own = data.models.map((model, at) => [model, at]).filter(([model]) => model.role === "unlearned").map(([, at]) => at);
    const sum = (at) => data.items.reduce((total, item) => total + (rise(item, at) ?? 0), 0);
    return own.length ? own.reduce((best, at) => (sum(at) > sum(best) ? at : best)) : 0;
  };
  const values = (item, model) => item[VALUES].slice(model * width, (model + 1) * width);
  const rise = (item, model) => {
    const [full, ...others] = values(item, model), known = others.filter((each) => each !== null);
    return full === null || !known.length ? null : Math.max(...known) - full;
  };

  const state = { metric: Math.max(0, data.metrics.findIndex((metric) => metric.name === data.lead)), model: worst(), sort: "rise", down: true, page: 0, find: "", risen: false, open: null };

  const plain = (index) => { const text = index < 0 ? "" : data.texts[index]; return Array.isArray(text) ? text.join("") : text; };
  const shape = (marks) => {
    const leaked = [...marks].filter((mark) => mark === "#").length, all = [...marks].filter((mark) => mark !== "+").length;
    const drawn = [...marks].map((mark) => (mark === "+" ? make("b", {}, "…") : make("i", { class: mark === "#" ? "l" : false })));
    return make("span", { class: "shape", role: "img", "aria-label": `${leaked} of ${all}${marks.endsWith("+") ? " and more" : ""} words leaked` }, ...drawn);
  };
  const length = (marks) => {
    const count = [...marks].filter((mark) => mark !== "+").length;
    return make("span", { class: "soft" }, `${count}${marks.endsWith("+") ? " or more" : ""} ${count === 1 ? "word" : "words"}`);
  };
  const GLANCE = 300, SCREEN = 4000;  // characters of a text in its row, and before more is asked for
  const say = (node, parts, most) => {
    let room = most;
    parts.forEach((part, at) => {
      const shown = part.slice(0, Math.max(0, room));
      room -= part.length;
      if (shown) node.append(at % 2 ? make("mark", {}, shown) : shown);
    });
    if (room >= 0) return node;
    if (most === GLANCE) node.append("…");
    else node.append(" ", make("button", { type: "button", onclick: () => { node.replaceChildren(); say(node, parts, Infinity); node.tabIndex = 0; node.focus(); } }, `Show ${(-room).toLocaleString("en")} more characters`));
    return node;
  };
  const write = (node, index, isAnswer, most = SCREEN) => {
    if (index < 0) { node.append(make("span", { class: "soft" }, isAnswer ? "(nothing)" : "–")); return node; }
    const text = data.texts[index];
    if (!data.reveal) { node.append(isAnswer ? shape(text) : length(text)); return node; }
    node.dir = "auto";
    return say(node, Array.isArray(text) ? text : [text], most);
  };

  const key = (item) => {
    if (state.sort === "name") return item[NAME];
    if (state.sort === "rise") return rise(item, state.model);
    return item[VALUES][state.model * width + Number(state.sort)];
  };
  const compare = (one, two) => {
    const [a, b] = [key(one), key(two)];
    if (a === null || b === null) return (a === null) - (b === null);  // what has no number stands last
    const order = typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
    return state.down ? -order : order;
  };
  const found = (wanted) => {  // every text is searched once, however many items share it
    const texts = data.reveal ? new Set(data.texts.flatMap((_, at) => (plain(at).toLowerCase().includes(wanted) ? [at] : []))) : new Set();
    return (item) => [item[NAME], item[GROUP]].some((name) => name.toLowerCase().includes(wanted)) || [item[PROMPT], item[TRUTH], ...item[SAID]].some((at) => texts.has(at));
  };
  const rows = () => {
    const wanted = state.find.trim().toLowerCase(), has = wanted ? found(wanted) : () => true;
    return data.items.filter((item) => item[METRIC] === state.metric && has(item) && (!state.risen || (rise(item, state.model) ?? 0) > 0)).sort(compare);
  };

  const select = (label, options, value, change) => make("label", {}, label, make("select", { onchange: (event) => { change(Number(event.target.value)); again(); } }, ...options.map(([index, text]) => make("option", { value: index, selected: index === value }, text))));
  const search = make("input", { type: "search", autocomplete: "off", oninput: () => { state.find = search.value; again(); } });
  const controls = make("div", { class: "controls" },
    select("Measure", data.metrics.map((metric, at) => [at, metric.title || metric.name]), state.metric, (at) => { state.metric = at; }),
    select("Model", data.models.map((model, at) => [at, `${model.name}${model.role === "unlearned" ? "" : ` (${model.role})`}`]), state.model, (at) => { state.model = at; }),
    make("label", {}, data.reveal ? "Find in prompts, truths and answers" : "Find an item or group", search),
    make("label", { class: "check" }, make("input", { type: "checkbox", onchange: (event) => { state.risen = event.target.checked; again(); } }), "only what rose"));

  const heading = (id, text, isNumber) => {
    const active = state.sort === id;
    return make("th", { scope: "col", class: isNumber && "n", "aria-sort": active && (state.down ? "descending" : "ascending") },
      make("button", { type: "button", "data-sort": id, onclick: () => { if (active) state.down = !state.down; else { state.sort = id; state.down = id !== "name"; } state.page = 0; draw(`[data-sort="${id}"]`); } }, text, active ? (state.down ? " ↓" : " ↑") : ""));
  };
  const about = (item) => {
    const parts = [];
    if (item[PROMPT] >= 0) parts.push(make("h3", {}, "Prompt"), write(make("p", { class: "whole", tabindex: 0 }), item[PROMPT], false));
    if (item[TRUTH] >= 0) parts.push(make("h3", {}, "Truth"), write(make("p", { class: "whole", tabindex: 0 }), item[TRUTH], false));
    const list = make("ul", { class: "answers" });
    data.models.forEach((model, at) => {
      list.append(make("li", { class: "head" }, make("bdi", {}, model.name)));
      // Precisions with the same answer and number share a line: what differs is what one looks for.
      const lines = new Map();
      data.conditions.forEach((label, column) => {
        const cell = at * width + column, key = [item[VALUES][cell], item[SAID][cell], item[WHY][cell]].join("|");
        lines.set(key, { cell, labels: [...(lines.get(key)?.labels ?? []), shown(label)] });
      });
      for (const { cell, labels } of lines.values()) {
        const said = make("span", { class: "said" }), why = item[WHY][cell];
        if (item[SAID].length) write(said, item[SAID][cell], true);
        if (why !== undefined) said.append(make("span", { class: "soft" }, ` not scored: ${plain(why)}`));
        const every = labels.length === width && width > 1 ? "at every precision" : labels.join(", ");
        list.append(make("li", {}, make("span", { class: "who" }, make("bdi", {}, every)), make("b", { class: "n" }, number(item[VALUES][cell])), said));
      }
    });
    return make("tr", { class: "detail" }, make("td", { colspan: 2 + width + (hasTexts() ? 2 : 0) }, make("div", { class: "inner" }, ...parts, list)));
  };
  const row = (item, at) => {
    const own = values(item, state.model), up = rise(item, state.model), isOpen = state.open === item;
    const line = make("tr", {}, make("th", { scope: "row" }, make("button", { type: "button", class: "open", "data-row": at, "aria-expanded": String(isOpen), onclick: () => { state.open = isOpen ? null : item; draw(`[data-row="${at}"]`); } }, make("bdi", {}, item[NAME])), ...(data.reveal ? [PROMPT, TRUTH].map((part) => write(make("div", { class: "text narrow" }), item[part], false, GLANCE)) : [])));
    if (hasTexts()) line.append(make("td", { class: "words" }, write(make("div", { class: "text" }), item[PROMPT], false, GLANCE)), make("td", { class: "words" }, write(make("div", { class: "text" }), item[TRUTH], false, GLANCE)));
    own.forEach((value) => line.append(make("td", { class: "n" }, number(value))));
    line.append(make("td", { class: "n" + (up > 0 && data.metrics[state.metric].lower ? " rose" : "") }, signed(up)));
    return isOpen ? [line, about(item)] : [line];
  };
  const hasTexts = () => data.items.some((item) => item[METRIC] === state.metric && (item[PROMPT] >= 0 || item[TRUTH] >= 0));

  const region = make("div", { class: "scroll", role: "region", "aria-label": "Items", tabindex: 0 });
  const status = make("span", { role: "status" });
  const turn = (text, by) => make("button", { type: "button", onclick: () => { state.page += by; state.open = null; draw(); } }, text);
  const back = turn("← Back", -1), on = turn("Next →", 1);
  const draw = (focus) => {
    const found = rows(), pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    state.page = Math.min(Math.max(0, state.page), pages - 1);
    const head = make("tr", {}, heading("name", "Item", false));
    if (hasTexts()) head.append(make("th", { scope: "col", class: "words" }, "Prompt"), make("th", { scope: "col", class: "words" }, "Truth"));
    data.conditions.forEach((label, column) => head.append(heading(String(column), shown(label), true)));
    head.append(heading("rise", "Largest rise", true));
    const first = state.page * PER_PAGE, page = found.slice(first, first + PER_PAGE);
    const metric = data.metrics[state.metric];
    region.replaceChildren(make("table", {}, make("caption", { class: "hide" }, `${metric.title || metric.name}, ${data.models[state.model].name}, item by item`), make("thead", {}, head), make("tbody", {}, ...page.flatMap((item, at) => row(item, at)))));
    status.textContent = found.length ? `${first + 1} to ${first + page.length} of ${found.length} items` : "No item fits.";
    back.disabled = state.page === 0; on.disabled = state.page >= pages - 1;
    if (focus) region.querySelector(focus)?.focus();
  };
  const again = () => { state.page = 0; state.open = null; draw(); };

  place.append(controls, region, make("div", { class: "pages" }, back, on, status));
  if (data.left) place.append(make("p", { class: "about" }, `${data.left} items that rose least are left to the Parquet file.`));
  place.hidden = false;
  draw();
})();
