// How the search orders what it found: Sphinx's own scores, but of two equal ones the heading goes
// before the page around it. Who asks for "gae" is led to the entry, not to the top of the page.
var Scorer = {
  score: ([page, title, anchor, description, score]) => score + (anchor ? 1 : 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
