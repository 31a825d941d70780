"use strict";
(() => {
  const root = document.documentElement, $ = (id) => document.getElementById(id);
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
  const later = (work, wait) => { let timer; return () => { clearTimeout(timer); timer = setTimeout(work, wait); }; };
  const FULL = "full", shown = (label) => (label === FULL ? "full precision" : label);
  const written = (value, digits) => value.toFixed(digits).replace("-", "−");
  const percent = (p) => (p >= 0.0995 ? `${Math.round(100 * p)} %` : p >= 0.00095 ? `${written(100 * p, 1)} %` : "< 0.1 %");
  const tint = (p) => `t${Math.round(10 * p)}`;
  const visible = (token) => token.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/^ +$/, (blank) => "␣".repeat(blank.length)).trim() || "∅";
  const count = (number, one, many) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

  // Theme: what the system asks for until the button is pressed.
  const theme = $("theme"), system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const named = () => { theme.textContent = isDark() ? "Light" : "Dark"; theme.setAttribute("aria-label", `Switch to the ${isDark() ? "light" : "dark"} theme`); };
  theme.hidden = false;
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; named(); });
  system.addEventListener("change", named);
  named();
  history.replaceState(null, "", location.pathname);  // the key is a cookie by now, and no longer to be seen

  const say = (text) => { $("state").textContent = text; };
  const GONE = "The inspector does not answer. Is 'expunge inspect' still running? If it is, open the address it printed.";
  const told = async (response) => {
    if (response.ok) return response;
    const found = await response.json().catch(() => ({ refused: GONE }));
    throw new Error(found.refused);
  };
  const get = async (path, wanted = {}) => (await told(await fetch(`${path}?${new URLSearchParams(wanted)}`).catch(() => { throw new Error(GONE); }))).json();

  let registry;
  const chosen = { model: null, precision: FULL, epoch: null, lens: null, form: "written" };
  const subject = () => registry.models.find((model) => model.name === chosen.model);
  const known = new Map();  // what each model said of the question that was asked last
  let question = null, running = null, words = 0;

  const ROLES = { target: "before unlearning", retrained: "never saw the forget set", unlearned: "unlearned" };
  const columns = () => {
    const beside = registry.models.filter((model) => model.role !== "unlearned" && model.name !== chosen.model);
    const all = beside.map((model) => ({ model: model.name, role: model.role, precision: FULL, epoch: null }));
    const { name, role } = subject();
    for (const precision of new Set([FULL, chosen.precision])) all.push({ model: name, role, precision, epoch: chosen.epoch });
    return all.slice(-16).map((each) => ({ ...each, key: JSON.stringify([each.model, each.precision, each.epoch]) }));
  };
  const asked = ({ model, precision, epoch }) => ({ model, precision, epoch });
  const where = (column) => [ROLES[column.role], shown(column.precision), column.epoch === null ? "" : `epoch ${column.epoch}`].filter(Boolean).join(" · ");

  // Answers
  const cards = new Map();
  const card = (column) => {
    const drawn = make("div", { class: "drawn", hidden: true }), said = make("p", { class: "said", dir: "auto" }), note = make("p", { class: "note", hidden: true }), leak = make("p", { class: "leak" });
    const node = make("article", { class: "card" }, make("h3", {}, make("bdi", {}, column.model)), make("p", { class: "role" }, where(column)), said, leak, drawn, note);
    cards.set(column.key, { node, said, note, leak, drawn });
    return node;
  };
  const fill = (key) => {
    const place = cards.get(key), found = known.get(key);
    if (!place) return;
    const parts = found?.said ?? [];
    place.said.replaceChildren(...parts.map((part, at) => (at % 2 ? make("mark", {}, part) : at ? part : part.trimStart())));
    if (found?.whole && !found.note && !parts.join("")) place.said.append(make("span", { class: "soft" }, "(nothing)"));
    if (question === null) place.said.append(make("span", { class: "soft" }, "Not asked yet."));
    place.said.classList.toggle("growing", question !== null && running !== null && !found?.whole);
    place.said.tabIndex = place.said.scrollHeight > place.said.clientHeight ? 0 : -1;
    const leaked = found?.leaked ?? 0;
    drawSamples(place.drawn, found?.drawn ?? []);
    place.node.classList.toggle("leaks", words > 0 && leaked === words);
    place.leak.textContent = words && found?.whole ? `${leaked} of ${count(words, "word", "words")} of the true answer` : "";
    place.note.textContent = found?.note ?? "";
    place.note.hidden = !found?.note;
  };
  const marked = (parts) => parts.map((part, at) => (at % 2 ? make("mark", {}, part) : part));
  const drawSamples = (place, drawn) => {
    place.hidden = !drawn.length;
    if (!drawn.length) return;
    const whole = drawn.filter(([, leaked]) => words && leaked === words).length;
    const says = `${count(drawn.length, "sampled answer", "sampled answers")}${words ? `; ${whole} with every word of the true answer` : ""}`;
    place.replaceChildren(make("details", {}, make("summary", {}, says), make("ol", {}, ...drawn.map(([parts]) => make("li", { dir: "auto" }, ...(parts.join("").trim() ? marked(parts) : ["(nothing)"]))))));
  };
  const drawCards = () => {
    cards.clear();
    const all = columns();
    $("answers").replaceChildren(...all.map(card));
    all.forEach(({ key }) => fill(key));
  };

  // How likely each token of the true answer is, and layer by layer
  const cell = (name, [p, rank, best], token, instead) => make(name, { class: tint(p) },
    ...(token === null ? [] : [make("bdi", { class: "token" }, visible(token))]),
    make("span", { class: "how" }, percent(p)), make("small", { class: "how" }, `rank ${rank.toLocaleString("en")}`),
    ...(instead && rank !== 1 ? [make("small", { class: "how instead" }, make("span", { class: "hide" }, "instead "), make("bdi", {}, visible(best)))] : []));
  const strip = (column, look) => {
    const seen = look.layers.at(-1), first = seen.filter(([, rank]) => rank === 1).length;
    const every = seen.reduce((product, [p]) => product * p, 1) ** (1 / seen.length);
    return make("article", { class: "strip" },
      make("h3", {}, make("bdi", {}, column.model), make("span", {}, `${where(column)} · ${percent(every)} per token · first choice for ${first} of ${seen.length}`)),
      make("ol", { role: "list" }, ...seen.map((each, at) => cell("li", each, look.tokens[at], false))));
  };
  const picks = (name, options, value, change) => options.map(([key, ...text]) => make("label", {},
    make("input", { type: "radio", name, value: key, checked: key === value, onchange: () => change(key) }), make("span", {}, ...text)));
  const drawLens = (looks) => {
    const column = looks.find(({ key }) => key === chosen.lens) ?? looks.at(-1), look = known.get(column.key).look;
    const last = look.layers.length;
    const firsts = look.layers.map((layer) => layer.filter(([, rank]) => rank === 1).length);
    const peak = firsts.findIndex((each) => 2 * each > look.tokens.length);
    $("lens-says").textContent = peak < 0
      ? `After none of its ${last} layers is the true answer the first choice for most of its ${count(look.tokens.length, "token", "tokens")}.`
      : `From layer ${peak + 1} of ${last} on, the true answer's tokens are mostly the first choice (${firsts[peak]} of ${look.tokens.length}); at the end ${firsts.at(-1)} are.`;
    if (peak >= 0 && 2 * firsts.at(-1) <= look.tokens.length) $("lens-says").textContent = `After layer ${peak + 1} of ${last} most of the true answer is the first choice (${firsts[peak]} of ${look.tokens.length} tokens), and later layers hide it: at the end ${firsts.at(-1)} are.`;
    const head = make("tr", {}, make("th", { scope: "col" }, "After"), ...look.tokens.map((token) => make("th", { scope: "col" }, make("bdi", { class: "token" }, visible(token)))));
    const rows = look.layers.map((layer, at) => make("tr", { class: at + 1 === last ? "out" : false },
      make("th", { scope: "row" }, at + 1 === last ? `layer ${last}, the end` : `layer ${at + 1}`), ...layer.map((each) => cell("td", each, null, true))));
    $("lens").replaceChildren(make("caption", { class: "hide" }, `How likely ${column.model}, ${where(column)}, finds each token of the true answer after each layer`), make("thead", {}, head), make("tbody", {}, ...rows));
  };
  const drawLooks = () => {
    const all = columns(), looks = all.filter(({ key }) => known.get(key)?.look);
    $("seen").hidden = !looks.length;
    $("deep").hidden = !looks.length;
    $("strips").replaceChildren(...looks.map((column) => strip(column, known.get(column.key).look)));
    if (!looks.length) return;
    const value = (looks.find(({ key }) => key === chosen.lens) ?? looks.at(-1)).key, held = document.activeElement?.name === "lens";
    $("lens-of").replaceChildren(...picks("lens", looks.map((column) => [column.key, make("bdi", {}, column.model), ` · ${shown(column.precision)}`]), value, (key) => { chosen.lens = key; drawLens(looks); }));
    if (held) $("lens-of").querySelector(":checked").focus();
    drawLens(looks);
  };

  // Asking
  const take = (event, missing) => {
    if ("words" in event) ({ words } = event);
    if ("truth" in event && !$("truth").value && event.truth) {
      $("truth").value = event.truth;
      given = event.truth;
      question = asking_now();
    }
    if (!("place" in event)) return;
    const { key } = missing[event.place], { place, ...news } = event;
    known.set(key, news);
    fill(key);
    if (news.look) drawLooks();
  };
  const read = async (response, missing) => {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "", isOver = false;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) { const event = JSON.parse(line); isOver ||= event.over === true; take(event, missing); }
    }
    if (!isOver) throw new Error("The inspector stopped in the middle of an answer. See its terminal for the reason.");
  };
  const samples = () => Math.min(64, Math.max(0, Math.trunc(Number($("samples").value)) || 0));
  const asking_now = () => JSON.stringify([$("prompt").value, $("truth").value, chosen.form, samples()]);
  const ask = async () => {
    const now = asking_now();
    running?.abort();
    if (now !== question) known.clear();
    question = now;
    const missing = columns().filter(({ key }) => !known.get(key)?.whole || (!known.get(key).look && !known.get(key).note && $("truth").value));
    missing.forEach(({ key }) => known.delete(key));
    if (!missing.length) { running = null; drawCards(); drawLooks(); return; }
    const own = (running = new AbortController()), began = performance.now();
    drawCards();
    drawLooks();
    say("Answering …");
    const body = JSON.stringify({ prompt: $("prompt").value, truth: $("truth").value, form: chosen.form, samples: samples(), asked: missing.map(asked) });
    try {
      const response = await fetch("ask", { method: "POST", body, signal: own.signal, headers: { "content-type": "application/json" } }).catch((error) => { throw error.name === "AbortError" ? error : new Error(GONE); });
      await read(await told(response), missing);
      if (running === own) say(`${count(missing.length, "model", "models")} answered in ${((performance.now() - began) / 1000).toFixed(2)} s.`);
    } catch (error) {
      if (error.name === "AbortError" || running !== own) return;
      say(error.message);
    }
    running = null;
    $("copy").disabled = !known.size;
    columns().forEach(({ key }) => fill(key));
  };
  // A table that spreadsheets take: tabs between cells, one line for each answer.
  const table = () => {
    const plain = (text) => { const one = String(text).replace(/\s+/g, " ").trim(); return /^[=+\-@]/.test(one) ? `'${one}` : one; };
    const lines = columns().flatMap((column) => {
      const found = known.get(column.key), own = [column.model, where(column), $("prompt").value, $("truth").value];
      const answers = found ? [["greedy", found.said, found.leaked], ...(found.drawn ?? []).map(([parts, leaked], at) => [`sample ${at + 1}`, parts, leaked])] : [];
      return answers.map(([kind, parts, leaked]) => [...own, kind, parts.join(""), words ? `${leaked} of ${words}` : ""]);
    });
    return [["model", "state", "prompt", "true answer", "decoding", "answer", "leaked words"], ...lines].map((line) => line.map(plain).join("\t")).join("\n");
  };
  $("copy").addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(table()); say("Copied."); } catch { say("The browser does not allow this page to copy."); }
  });
  const again = () => { drawErased(); if (question === null) drawCards(); else ask(); };
  let offered = "";  // the prompt an item brought: typing replaces it
  $("prompt").addEventListener("focus", () => { if (offered && $("prompt").value === offered) $("prompt").select(); });
  let given = "";  // the true answer that an item brought: it goes when the prompt is another
  $("prompt").addEventListener("input", () => { if (given && $("truth").value === given) { $("truth").value = ""; given = ""; mark(null); } });
  $("form").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  $("prompt").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask(); });

  // Choices
  const choosePrecision = (label) => { chosen.precision = label; $("precisions").querySelectorAll("input").forEach((each) => { each.checked = each.value === label; }); };
  const chooseForm = (form) => { chosen.form = form; $("forms").querySelectorAll("input").forEach((each) => { each.checked = each.value === form; }); };
  const nameEpoch = () => { $("epoch-name").textContent = chosen.epoch === null ? "finished" : String(chosen.epoch); $("epoch").setAttribute("aria-valuetext", $("epoch-name").textContent); };
  const chooseModel = (name) => {
    chosen.model = name;
    chosen.epoch = null;
    $("model").value = name;
    const { epochs } = subject();
    $("when").hidden = !epochs.length;
    $("epoch").max = epochs.length;
    $("epoch").value = epochs.length;
    nameEpoch();
  };
  const settled = later(again, 120);
  $("epoch").addEventListener("input", () => { chosen.epoch = subject().epochs[Number($("epoch").value)] ?? null; nameEpoch(); settled(); });
  $("model").addEventListener("change", () => { chooseModel($("model").value); again(); });

  // What the grid erased
  const drawErased = () => {
    const { role } = subject(), { model, precision, epoch } = chosen;
    $("grid").hidden = role !== "unlearned";
    $("erased-of").replaceChildren(make("bdi", {}, model), ` · ${shown(precision)}${epoch === null ? "" : ` · epoch ${epoch}`}`);
    if (!$("grid").hidden && $("erased").open) readErased({ model, precision, ...(epoch === null ? {} : { epoch }) });
  };
  const readErased = async (wanted) => {
    const box = $("tensors").parentElement, isCurrent = () => wanted.model === chosen.model && wanted.precision === chosen.precision && (wanted.epoch ?? null) === chosen.epoch;
    box.hidden = true;
    if (wanted.precision === FULL) { $("erased-says").textContent = "Nothing is rounded at full precision. Choose another one above."; return; }
    $("erased-says").textContent = "Reading the weights …";
    let found;
    try { found = (await get("weights", wanted)).tensors; } catch (error) { if (isCurrent()) $("erased-says").textContent = error.message; return; }
    if (!isCurrent()) return;
    const sum = (at) => found.reduce((total, each) => total + each[at], 0), total = ["all of them", sum(1), sum(2), sum(3)];
    $("erased-says").textContent = `${wanted.precision} erased ${total[2] ? percent(total[3] / total[2]) : "none"} of the changed weights, in ${count(found.length, "tensor", "tensors")} it rounds.`;
    const row = ([name, weights, changed, undone], kind) => {
      const share = changed ? undone / changed : 0, bar = make("i");
      bar.style.width = `${100 * share}%`;
      return make("tr", { class: kind }, make("th", { scope: "row" }, name), ...[weights, changed, undone].map((each) => make("td", { class: "n" }, each.toLocaleString("en"))), make("td", { class: "n" }, changed ? percent(share) : "–"), make("td", { class: "gauge", "aria-hidden": "true" }, bar));
    };
    const head = ["Tensor", "Weights", "Changed", "Erased", "Share"].map((name, at) => make("th", { scope: "col", class: at ? "n" : false }, name));
    $("tensors").replaceChildren(make("caption", { class: "hide" }, `What ${wanted.precision} erased of ${wanted.model}`), make("thead", {}, make("tr", {}, ...head, make("td", { "aria-hidden": "true" }))), make("tbody", {}, row(total, "total"), ...found.map((each) => row(each, false))));
    box.hidden = false;
  };
  $("erased").addEventListener("toggle", drawErased);

  // Items of the audit
  let page = 0;
  const digits = () => (registry.metrics.find(({ name }) => name === $("metric").value)?.scale === "0-1" ? 2 : 1);
  const mark = (at) => $("list").querySelectorAll("button").forEach((each) => { if (Number(each.dataset.at) === at) each.setAttribute("aria-current", "true"); else each.removeAttribute("aria-current"); });
  const open = async (at) => {
    if (!(await show(at))) return;
    again0();
    if (matchMedia("(max-width: 67.99rem)").matches) $("h-answers").scrollIntoView();
  };
  const show = async (at) => {
    const item = await get("item", { at }).catch((error) => { say(error.message); });
    if (!item) return false;
    $("prompt").value = item.prompt;
    $("truth").value = given = item.truth;
    offered = item.prompt;
    if (registry.models.some(({ name }) => name === item.model) && item.model !== chosen.model) chooseModel(item.model);
    if (item.rise > 0 && registry.precisions.includes(item.precision)) choosePrecision(item.precision);
    // A document is continued as it is written, whatever the audit's questions look like.
    chooseForm(registry.form === "question" && !/Answer:\s*$/.test(item.prompt) ? "written" : registry.form);
    mark(at);
    return true;
  };
  const again0 = () => { drawErased(); ask(); };
  const entry = ({ at, prompt, name, full, rise, precision }) => {
    const number = `${rise > 0 ? "+" : ""}${written(rise, digits())}`;
    const from = rise > 0 ? `${written(full, digits())} → ${written(full + rise, digits())} at ${shown(precision)}` : `${written(full, digits())} at full precision`;
    return make("li", {}, make("button", { type: "button", "data-at": at, onclick: () => open(at) },
      make("span", { class: "text", dir: "auto" }, prompt || name), make("span", { class: "rise" }, make("span", { class: rise > 0 ? "hot" : false }, number), make("small", {}, from))));
  };
  let asking = 0;
  const list = async (from) => {
    const own = ++asking;
    const found = await get("items", { metric: $("metric").value, find: $("find").value, start: from }).catch((error) => { $("count").textContent = error.message; });
    if (!found || own !== asking) return;
    const lines = found.items.map(entry);
    if (from) $("list").append(...lines);
    else $("list").replaceChildren(...lines);
    page = from + found.items.length;
    $("list").hidden = !page;
    $("more").hidden = page >= found.count;
    $("count").textContent = found.count ? `${count(found.count, "item", "items")}; ${found.risen.toLocaleString("en")} came back once quantized.` : "No matching item.";
    if (from) lines[0]?.firstChild.focus();
  };
  $("find").addEventListener("input", later(() => list(0), 150));
  $("metric").addEventListener("change", () => list(0));
  $("more").addEventListener("click", () => list(page));

  const begin = async () => {
    registry = await get("registry");
    const unlearned = registry.models.filter(({ role }) => role === "unlearned"), subjects = unlearned.length ? unlearned : registry.models;
    $("model").append(...subjects.map(({ name }) => make("option", { value: name }, name)));
    $("which").firstChild.data = unlearned.length ? "Unlearned model " : "Model ";
    $("which").hidden = subjects.length < 2;
    $("precisions").append(...picks("precision", registry.precisions.map((label) => [label, label]), "int4", (label) => { choosePrecision(label); again(); }));
    const forms = [["question", "as a question"], ["chat", "as a chat"], ["written", "as written"]];
    chosen.form = registry.form;
    $("forms").append(...picks("form", forms, chosen.form, (form) => { chosen.form = form; if (question !== null) ask(); }));
    choosePrecision("int4");
    chooseModel(subjects[0].name);
    if (registry.absent.length) { $("absent").textContent = `Not found at the path the audit recorded: ${registry.absent.join(", ")}.`; $("absent").hidden = false; }
    drawCards();
    drawErased();
    if (!registry.metrics.length) return;
    $("metric").append(...registry.metrics.map(({ name, title }) => make("option", { value: name }, title)));
    $("items").hidden = false;
    await list(0);
    const first = Number($("list").querySelector("button")?.dataset.at ?? -1);
    if (first >= 0 && !$("prompt").value) await show(first);  // what came back most, ready to be asked
  };
  begin().catch((error) => say(error.message));
})();
