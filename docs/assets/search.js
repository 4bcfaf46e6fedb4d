// A worker in front of Material's. What a reader types is words, perhaps an error pasted whole, never lunr's query
// language. And a page answers as a whole: this ranks pages; Material's worker finds sections in them and marks words.

// One spelling for what people write in several ways, in pages and in queries alike.
const SPELLINGS = [
  [/<[^>]+>|&\w+;/g, " "],
  [/\bbatch[\s_-]*norm(s|ed|ali[sz]\w*)?\b|\bbns?\b/gi, " batchnorm "],
  [/\b(tensorflow|tf)[\s_.-]*lite\b|\blite[\s_-]*rt\b/gi, " tflite "],
  [/\bmonte[\s_-]*carlo\b|\bmc(?=[\s_-]*drop)/gi, " montecarlo "],
  [/\bdrop[\s_-]*outs?\b/gi, " dropout "],
  [/\bfine[\s_-]*tun(e|ed|es|ing)?\b/gi, " finetune "],
  [/\bsaved[\s_-]*model/gi, " savedmodel"],
  [/\bgradient[\s_-]*tape\b/gi, " gradienttape "],
  [/\bsub[\s_-]*class/gi, " subclass"],
  [/\b(res|mobile|efficient|dense)[\s_-]*net\w*/gi, " $1net "],
  [/\b(my\s+)?(own|custom|manual|hand-?written)\s+(training\s+|train\s+)?loops?\b|\bmy\s+loops?\b/gi, " customloop "],
  [/\bgpus?\b/gi, " gpu "],
  [/\bdifferences?\s+between\b|\bvs\b/gi, " versus "],
  [/\b(?:not|never|cannot|\w+n['’]t)\s+(\p{L}+)/giu, "$1 not$1"], // "not learning" is not about learning
];
// Words that mean the same here.
const SAME = Object.fromEntries(
  [
    "accuracy acc",
    "validation val valid",
    "evaluate eval evaluation",
    "predict pred preds prediction predictions inferences",
    "freeze frozen froze",
    "unfreeze unfrozen unfroze",
    "same identical constant equal",
    "different differ differs difference mismatch discrepancy inconsistent inconsistency disagree disagrees",
    "bad poor terrible worse low wrong garbage worst",
    "drop drops collapse collapses",
    "load loaded loading reload restore restored restoring",
    "deviation std stdev",
    "chance 50 random guess guessing",
    "image img imgs picture",
    "stuck plateau",
    "sure uncertain uncertainty",
    "argument arg args kwarg",
  ].flatMap((line) => line.split(" ").map((word, _, [first]) => [word, first])),
);
const WEIGHTS = { title: 4, words: 3, heading: 1.5, text: 1 };
const PAIR = 0.6; // two words that stand side by side in the query and in the page
const WHOLE = 0.8; // a title, heading or phrase that says what the query says and nothing else

const pages = new Map(); // address -> { boost, weights: term -> weight, phrases: [[term]] }
const rarity = new Map(); // term -> the fewer pages are about it, the more it says
let vocabulary = []; // the terms of one word
let typed = new Set();
let query = []; // [word, term]

/** The words of a text that count. A name of several words counts as a whole and by its words. */
function split(text) {
  return text
    .toLowerCase()
    .split(/[^\p{L}\p{N}._]+|\.(?!\d)|(?<!\d)\./u)
    .flatMap((word) => (/[^_]_+[^_]/.test(word) ? [...word.split("_"), word.replace(/^_+|_+$/g, "")] : word.split("_")))
    .filter((word) => word && lunr.stopWordFilter(word));
}

const stem = (word) => lunr.stemmer(new lunr.Token(SAME[word] ?? word)).toString();

/** The words of a text, each with the term it stands for. */
function words(text) {
  for (const [pattern, spelling] of SPELLINGS) text = text.replace(pattern, spelling);
  return split(text).map((word) => {
    const decimals = /^\d+\.\d\d/.exec(word); // 0.6931, 0.6935 and 0.693 are one loss
    if (decimals || word === "updates") return [word, decimals ? decimals[0] : word]; // `model.updates` is a name
    return [word, stem(word)];
  });
}

/** How much a page is about a term, from 0 to 1. */
const share = (weight) => weight / (weight + 2);
const termsOf = (text) => words(text).map(([, term]) => term);
const pairs = (terms) => terms.slice(1).map((term, n) => `${terms[n]} ${term}`);

function learn(docs) {
  const counts = new Map();
  for (const doc of docs) {
    const [address, anchor] = doc.location.split("#");
    if (!counts.has(address)) counts.set(address, { boost: doc.boost ?? 1, length: 0, phrases: [], title: {}, words: {}, heading: {}, text: {} });
    const page = counts.get(address);
    const count = (field, text) => {
      const terms = termsOf(text);
      // "PD102: a recorded …" is also called PD102.
      if (field !== "text") page.phrases.push(terms, ...text.split(/: /).map(termsOf));
      for (const term of [...terms, ...pairs(terms)]) page[field][term] = (page[field][term] ?? 0) + 1;
    };
    count(anchor ? "heading" : "title", doc.title);
    count("text", doc.text);
    for (const phrase of doc.words ?? []) count("words", phrase);
    if (doc.words) doc.text += `<p>People also write: ${doc.words.join(" · ")}</p>`;
    page.length += doc.text.length;
  }
  const mean = [...counts.values()].reduce((sum, page) => sum + page.length, 0) / counts.size;
  const spread = new Map();
  for (const [address, page] of counts) {
    const weights = new Map();
    for (const [field, weight] of Object.entries(WEIGHTS)) {
      const [most, long] = field === "text" ? [20, 0.4 + (0.6 * page.length) / mean] : [2, 1];
      for (const [term, n] of Object.entries(page[field])) {
        weights.set(term, (weights.get(term) ?? 0) + (weight * Math.min(n, most)) / long);
      }
    }
    for (const [term, weight] of weights) spread.set(term, (spread.get(term) ?? 0) + share(weight));
    pages.set(address, { boost: page.boost, weights, phrases: page.phrases });
  }
  for (const [term, n] of spread) rarity.set(term, Math.log(1 + (pages.size - n + 0.5) / (n + 0.5)));
  vocabulary = [...rarity.keys()].filter((term) => !term.includes(" "));
}

/** Letters to add, drop, change or swap until one word is the other; more than `most` is not counted out. */
function distance(one, other, most) {
  if (Math.abs(one.length - other.length) > most) return most + 1;
  const rows = [[...Array(other.length + 1).keys()]];
  for (let i = 1; i <= one.length; i++) {
    rows[i] = [i];
    for (let j = 1; j <= other.length; j++) {
      const [row, above] = [rows[i], rows[i - 1]];
      row[j] = Math.min(row[j - 1] + 1, above[j] + 1, above[j - 1] + (one[i - 1] !== other[j - 1]));
      const swapped = i > 1 && j > 1 && one[i - 1] === other[j - 2] && one[i - 2] === other[j - 1];
      if (swapped) row[j] = Math.min(row[j], rows[i - 2][j - 2] + 1);
    }
  }
  return rows[one.length][other.length];
}

/** What a word stands for: itself; while it is being typed, what begins with it; unknown, what is spelt nearly so. */
function meanings([word, term], last) {
  const found = new Map(rarity.has(term) ? [[term, 1]] : []);
  if (last && word.length > 1) {
    for (const known of vocabulary) if (known.startsWith(word) && !found.has(known)) found.set(known, 0.5);
  }
  if (!found.size && word.length > 3 && !word.includes("_")) {
    const most = word.length > 7 ? 2 : 1;
    for (const known of vocabulary) if (distance(term, known, most) <= most) found.set(known, 0.7);
    for (const known in SAME) if (distance(word, known, most) <= most) found.set(stem(known), 0.7);
  }
  return found;
}

/** Order the groups of sections that Material's worker found by what their pages say. */
function rank(groups) {
  const wanted = query.map((word, n) => meanings(word, n === query.length - 1));
  const sideBySide = pairs(query.map(([, term]) => term)).filter((pair) => rarity.has(pair));
  const asked = new Set(wanted.flatMap((meant) => [...meant.keys()].slice(0, 1)));
  const scores = new Map();
  const score = (address) => {
    const { boost, weights, phrases } = pages.get(address);
    const worth = (term, sure) => sure * rarity.get(term) * share(weights.get(term) ?? 0);
    let [sum, met, all] = [0, 0, 0];
    const terms = {};
    wanted.forEach((meant, n) => {
      const best = Math.max(0, ...[...meant].map(([term, sure]) => worth(term, sure)));
      const most = Math.max(0, ...[...meant].map(([term, sure]) => sure * rarity.get(term)));
      sum += best;
      met += best && most;
      all += most;
      if (typed.has(query[n][0])) terms[query[n][0]] = best > 0; // shown as "Missing"
    });
    for (const pair of sideBySide) sum += worth(pair, PAIR);
    const whole = Math.max(0, ...phrases.map((phrase) => {
      const says = (terms) => terms.reduce((total, term) => total + rarity.get(term), 0);
      const both = says([...asked].filter((term) => phrase.includes(term)));
      return both && both / says([...new Set([...asked, ...phrase])]);
    }));
    sum *= 1 + WHOLE * whole;
    scores.set(address, { score: all && sum * boost * (0.4 + (0.6 * met) / all), terms });
  };
  const addressOf = (group) => group[0].location.split("#")[0];
  for (const address of pages.keys()) score(address);
  for (const group of groups) for (const section of group) section.terms = scores.get(addressOf(group)).terms;
  return groups.sort((a, b) => scores.get(addressOf(b)).score - scores.get(addressOf(a)).score);
}

/** What lunr merges nodes of its tree of words by. Its own runs labels and numbers together: with digits in the words
 * it takes two nodes for one, finds words that no page has, and fails: a query with a 0 in it found nothing. */
function signature() {
  return (this._str ??= [this.final, ...Object.keys(this.edges).sort().flatMap((label) => [label, this.edges[label].id])].join());
}

// Messages: 0 brings the index, 2 a query, 3 is the answer. They pass here first, then Material's worker.
addEventListener("message", ({ data: message }) => {
  if (message.type === 0) {
    lunr.TokenSet.prototype.toString = signature;
    learn(message.data.docs);
  }
  if (message.type === 2) {
    typed = new Set(split(message.data));
    query = words(message.data);
    // Material's worker looks for what begins with a term: "predict" finds predictions. It splits names itself.
    // A word that no page has is looked for as what it may have been meant to be.
    const begins = query.flatMap(([word, term]) => {
      const meant = rarity.has(term) ? [] : [...meanings([word, term]).keys()].map((known) => known.replace(/i$/, ""));
      return [word.startsWith(term) ? term : word, ...meant];
    });
    message.data = [...new Set([...typed, ...begins])].filter((word) => !word.includes("_")).join(" ");
  }
});
const answer = self.postMessage.bind(self);
self.postMessage = (message) => {
  if (message.type === 3) rank(message.data.items);
  answer(message);
};

// The template ends our address with the rest of the name of Material's worker.
importScripts(`javascripts/workers/search.${location.search.slice(1)}`);
