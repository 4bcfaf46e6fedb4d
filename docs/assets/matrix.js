// The filter of the version matrix. Without it the page is complete; with it rows that do not match are hidden.
(() => {
  const form = document.querySelector(".mx-filter");
  if (!form) return;
  const bodies = [...document.querySelectorAll(".mx tbody")];

  function apply() {
    const group = form.elements.group.value;
    const since = form.elements.since.value;
    let shown = 0;
    for (const body of bodies) {
      let rows = 0;
      for (const row of body.querySelectorAll("tr[data-changes]")) {
        const changes = row.dataset.changes.split(" ").filter(Boolean).map(Number);
        row.hidden = since !== "" && !changes.some((place) => place >= Number(since));
        // A row of a family stands for the facts in its list.
        rows += row.hidden ? 0 : row.querySelectorAll("li[id]").length || 1;
      }
      body.hidden = (group !== "" && body.dataset.group !== group) || rows === 0;
      shown += body.hidden ? 0 : rows;
    }
    form.querySelector("output").textContent = shown === 1 ? "1 fact" : `${shown} facts`;
  }

  // A link to a fact must reach it, whatever the filter hides.
  function reveal() {
    const fact = location.hash.startsWith("#fact-") && document.getElementById(location.hash.slice(1));
    if (!fact) return;
    const fold = fact.closest("details");
    const hidden = fact.closest("tr").hidden || fact.closest("tbody").hidden;
    if (!hidden && (!fold || fold.open)) return;
    if (hidden) form.reset();
    if (fold) fold.open = true;
    apply();
    fact.scrollIntoView();
  }

  form.hidden = false;
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", reveal);
  apply();
  reveal();
})();
