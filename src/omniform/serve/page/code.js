// Colours in code: comments, strings, numbers and words of many languages; nothing is parsed, so nothing can fail.

const LONGEST = 30000; // letters; what is longer stays plain

const WORDS = new Set((
  "and as assert async await break case catch class const continue def default del do elif else enum except export extends extern " +
  "finally fn for from func function global go if impl implements import in interface is lambda let loop match mod module mut " +
  "namespace new nonlocal not of or package pass private protected pub public raise return select self static struct super switch " +
  "template then this throw trait try type typedef typeof union unsafe use using var virtual void volatile when where while with " +
  "yield begin end done fi esac elsif unless int float double bool char string str long short byte auto " +
  "SELECT FROM WHERE INSERT INTO VALUES UPDATE SET DELETE CREATE TABLE JOIN LEFT RIGHT INNER ON GROUP BY ORDER LIMIT AND OR NOT AS"
).split(" "));
const FACTS = new Set("true false null none nil None True False NULL undefined NaN Infinity".split(" "));

const HASH = new Set("py python sh bash shell zsh rb ruby yaml yml toml r perl make makefile dockerfile ini conf".split(" "));
const DASH = new Set("sql lua haskell hs ada".split(" "));
const NONE = new Set(["", "text", "txt", "plain", "plaintext", "output", "markdown", "md"]);

/** The nodes of a text of code. */
export function coloured(text, language) {
  const tongue = language.toLowerCase();
  if (NONE.has(tongue) || text.length > LONGEST) return [text];
  const comment = HASH.has(tongue) ? "#[^\\n]*" : DASH.has(tongue) ? "--[^\\n]*" : "\\/\\/[^\\n]*|\\/\\*[^]*?(?:\\*\\/|$)|<!--[^]*?(?:-->|$)";
  const pattern = new RegExp(`(${comment})|("""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|"(?:[^"\\\\\\n]|\\\\.)*"?|'(?:[^'\\\\\\n]|\\\\.)*'?|\`(?:[^\`\\\\]|\\\\.)*\`?)|(\\b\\d[\\w.]*)|([A-Za-z_$][\\w$]*)(\\s*\\()?`, "g");
  const nodes = [];
  let last = 0;
  const add = (kind, from, to) => {
    if (from > last) nodes.push(text.slice(last, from));
    const node = document.createElement("span");
    node.className = kind;
    node.textContent = text.slice(from, to);
    nodes.push(node);
    last = to;
  };
  for (const found of text.matchAll(pattern)) {
    const [whole, remark, words, number, name, call] = found, at = found.index;
    if (remark) add("c-remark", at, at + whole.length);
    else if (words) add("c-text", at, at + whole.length);
    else if (number) add("c-fact", at, at + whole.length);
    else if (WORDS.has(name)) add("c-word", at, at + name.length);
    else if (FACTS.has(name)) add("c-fact", at, at + name.length);
    else if (call) add("c-call", at, at + name.length);
  }
  if (last < text.length) nodes.push(text.slice(last));
  return nodes;
}
