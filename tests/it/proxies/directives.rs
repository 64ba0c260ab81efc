//! Configurations of nginx and Caddy as trees, so that a lint can say what is in which block.

use std::collections::BTreeMap;

/// A directive: its words as they are written, and the directives of its block.
#[derive(Clone, Debug, Default)]
pub struct Directive {
    /// Its name, and what follows.
    pub words: Vec<String>,
    /// What is between its braces, in order; nothing also where there are none.
    pub block: Vec<Directive>,
}

impl Directive {
    /// Its name; that of a block without words is empty.
    pub fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// A word after its name; empty where there is none.
    pub fn word(&self, at: usize) -> &str {
        self.words.get(at).map_or("", String::as_str)
    }

    /// All of it on one line.
    pub fn text(&self) -> String {
        self.words.join(" ")
    }

    /// The directives of its block that have this name.
    pub fn named<'all>(&'all self, name: &'all str) -> impl Iterator<Item = &'all Directive> {
        self.block.iter().filter(move |one| one.name() == name)
    }

    /// Whether its block says exactly this.
    pub fn says(&self, text: &str) -> bool {
        self.block.iter().any(|one| one.text() == text)
    }

    /// Itself and all that is in it, at any depth.
    pub fn all(&self) -> Vec<&Directive> {
        let inner = self.block.iter().flat_map(Directive::all);
        std::iter::once(self).chain(inner).collect()
    }
}

/// Reads nginx's: words up to `;` or a block, quotes around words with spaces. What is included is read from these files.
pub fn nginx(main: &str, files: &BTreeMap<String, String>) -> Directive {
    let words = words(&files[main]);
    let mut words = words.iter().map(String::as_str);
    Directive { words: Vec::new(), block: nginx_block(&mut words, files) }
}

fn nginx_block<'text>(
    tokens: &mut impl Iterator<Item = &'text str>,
    files: &BTreeMap<String, String>,
) -> Vec<Directive> {
    let (mut block, mut words) = (Vec::new(), Vec::<String>::new());
    while let Some(token) = tokens.next() {
        match token {
            ";" => match &words[..] {
                [include, file] if include == "include" => {
                    let name = file.rsplit('/').next().unwrap();
                    block.extend(nginx(name, files).block);
                    words.clear();
                }
                _ => block.push(Directive { words: std::mem::take(&mut words), block: Vec::new() }),
            },
            "{" => {
                let inner = nginx_block(&mut *tokens, files);
                block.push(Directive { words: std::mem::take(&mut words), block: inner });
            }
            "}" => return block,
            word => words.push(word.to_owned()),
        }
    }
    assert!(words.is_empty(), "it ends within {words:?}");
    block
}

/// Words, and `;`, `{` and `}` as words of their own; quotes stay with their words.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word) = (Vec::new(), String::new());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        let quote = matches!(char, '"' | '\'') && word.is_empty();
        if quote {
            word.push(char);
            word.extend(chars.by_ref().take_while(|next| *next != char));
            word.push(char);
        } else if char == '#' && word.is_empty() {
            chars.by_ref().find(|next| *next == '\n');
        } else if char.is_whitespace() || matches!(char, ';' | '{' | '}') {
            words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()));
            words.extend(Some(char).filter(|char| !char.is_whitespace()).map(String::from));
        } else {
            word.push(char);
        }
    }
    words
}

/// Reads Caddy's: a directive is a line, and a line that ends in `{` begins a block. Snippets stand where they are imported.
pub fn caddy(text: &str) -> Directive {
    let lines = text.lines().map(|line| line.split(" #").next().unwrap().trim());
    let mut lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let block = caddy_block(&mut lines);
    let (snippets, block) =
        block.into_iter().partition::<Vec<_>, _>(|one| one.name().starts_with('('));
    let import = |name: &str| {
        let found = snippets.iter().find(|one| one.name() == format!("({name})"));
        found.unwrap_or_else(|| panic!("no snippet {name}")).block.clone()
    };
    Directive { words: Vec::new(), block: imported(block, &import) }
}

fn caddy_block<'text>(lines: &mut impl Iterator<Item = &'text str>) -> Vec<Directive> {
    let mut block = Vec::new();
    while let Some(line) = lines.next() {
        if line == "}" {
            return block;
        }
        let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let opens = words.pop_if(|last| last == "{").is_some();
        let inner = if opens { caddy_block(&mut *lines) } else { Vec::new() };
        block.push(Directive { words, block: inner });
    }
    block
}

fn imported(block: Vec<Directive>, import: &dyn Fn(&str) -> Vec<Directive>) -> Vec<Directive> {
    let each = block.into_iter().flat_map(|one| match one.name() {
        "import" => import(one.word(1)),
        _ => vec![Directive { block: imported(one.block, import), words: one.words }],
    });
    each.collect()
}
