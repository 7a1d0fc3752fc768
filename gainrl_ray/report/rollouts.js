// The browsable rollouts: a card for each group, filters in the address, a page of cards at a time.

{
  const PAGE = 10;
  const FILTERS = ["step", "outcome", "from", "to", "text"];
  const groups = data.rollouts.groups;
  const total = groups.reduce((sum, group) => sum + group.rollouts.length, 0);
  const controls = element("div", { class: "controls" });
  const list = element("div", { id: "list" });
  const pager = element("div", { class: "controls" });
  const count = element("span", { class: "count", id: "count" });
  document.getElementById("browser").append(controls, list, pager);

  const inputs = {
    step: element("input", { type: "number", min: 1, placeholder: "all" }),
    outcome: element("select", {}, new Option("all", "")),
    from: element("input", { type: "number", min: 0, placeholder: "first" }),
    to: element("input", { type: "number", min: 0, placeholder: "last" }),
    text: element("input", { type: "search", placeholder: "prompt, completion" }),
  };
  const names = { step: "step", outcome: "outcome", from: "rank from", to: "rank to", text: "text" };
  for (const outcome of data.rollouts.outcomes) inputs.outcome.append(new Option(outcome, outcome));
  for (const key of FILTERS) {
    controls.append(element("label", {}, names[key], inputs[key]));
    inputs[key].addEventListener("input", () => setState({ [key]: inputs[key].value, page: null }));
  }
  const clear = () => setState(Object.fromEntries([...FILTERS, "page"].map((key) => [key, null])));
  controls.append(element("button", { type: "button", onclick: clear }, "Clear"), count);

  function number(key, otherwise) {
    const value = parseFloat(state.get(key));
    return Number.isNaN(value) ? otherwise : value;
  }

  // The groups with the rollouts that pass all filters, those without any left out.
  function matching() {
    const [step, from, to] = [number("step", null), number("from", -Infinity), number("to", Infinity)];
    const [outcome, text] = [state.get("outcome"), state.get("text")?.toLowerCase()];
    return groups
      .filter((group) => (step === null || group.step === step) && group.rank >= from && group.rank <= to)
      .map((group) => {
        const inPrompt = !text || group.question.toLowerCase().includes(text);
        const passes = (rollout) =>
          (!outcome || rollout.outcome === outcome) && (inPrompt || rollout.completion.toLowerCase().includes(text));
        return { ...group, rollouts: group.rollouts.filter(passes) };
      })
      .filter((group) => group.rollouts.length);
  }

  function rollout({ sample, completion, tokens, finish, outcome, reward }) {
    const cut = finish === "length" ? ", cut off" : "";
    return element(
      "div",
      { class: "rollout" },
      element("pre", {}, completion),
      element(
        "div", {},
        element("div", { class: "reward" }, `reward ${+reward.toFixed(4)} `, element("b", { class: "outcome " + outcome }, outcome)),
        element("p", { class: "label" }, `no. ${sample + 1}, ${tokens} tokens${cut}`)
      )
    );
  }

  function card(group) {
    return element(
      "article",
      { class: "card group" },
      element(
        "div",
        { class: "about" },
        element("b", {}, `step ${group.step} · rank ${group.rank.toLocaleString("en")}`),
        ` · ${group.id} · policy version ${group.version} · ${group.correct} of ${group.size} correct`
      ),
      element(
        "div",
        { class: "prompt" },
        element("pre", {}, group.question),
        element("p", { class: "label" }, "reference answer"),
        element("pre", {}, group.answer)
      ),
      element("div", {}, ...group.rollouts.map(rollout))
    );
  }

  function show() {
    for (const key of FILTERS) {
      if (inputs[key].value !== (state.get(key) ?? "")) inputs[key].value = state.get(key) ?? "";
    }
    const found = matching();
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    const page = Math.min(pages, Math.max(1, Math.trunc(number("page", 1))));
    const matches = found.reduce((sum, group) => sum + group.rollouts.length, 0);
    count.textContent = `${matches.toLocaleString("en")} of ${total.toLocaleString("en")} rollouts`;
    const cards = found.slice((page - 1) * PAGE, page * PAGE).map(card);
    list.replaceChildren(
      ...(cards.length ? cards : [element("p", { class: "card empty" }, "No rollout on this page matches the filters.")])
    );
    const turn = (to) => () => {
      setState({ page: to });
      goTo("rollouts");
    };
    const back = element("button", { type: "button", onclick: turn(page - 1) }, "Previous");
    const on = element("button", { type: "button", onclick: turn(page + 1) }, "Next");
    back.disabled = page === 1;
    on.disabled = page === pages;
    pager.replaceChildren(back, on, element("span", { class: "label" }, `page ${page} of ${pages}`));
  }

  watchers.push(show);
  show();
}
