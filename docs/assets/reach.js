// What scrolls can be reached by keyboard. Code that may scroll says so in its HTML (docs/_site/accessible.py), but
// Material takes that away where no mouse hovers; and it puts tables into boxes of its own, which say nothing.
(() => {
  const content = document.querySelector(".md-content");
  const reach = () => {
    for (const box of content.querySelectorAll("pre > code, .md-typeset__scrollwrap")) {
      if (box.scrollWidth > box.clientWidth && !box.hasAttribute("tabindex")) box.tabIndex = 0;
    }
  };
  new MutationObserver(reach).observe(content, { attributeFilter: ["tabindex"], childList: true, subtree: true });
  for (const [target, event] of [[window, "resize"], [content, "change"], [content, "toggle"]]) {
    target.addEventListener(event, reach, true);
  }
  reach();
})();
