//! The modules of a crate and which of them names which, read from the sources.
//!
//! A module is a file. It names another when a path in it, resolved through what the files import and
//! re-export, ends there: in `use`, in a type, in a call, in what is handed to a macro. Not counted are the parts that
//! only tests have, and that a parent re-exports what its children define. What is reached without a path, as the
//! methods of a type that another file adds, is not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The path of a module, without the crate: `["cli", "mount"]`.
pub type Module = Vec<String>;

/// What each module of a crate names, and by which paths.
pub type Names = BTreeMap<Module, BTreeMap<Module, BTreeSet<String>>>;

/// What one file says.
#[derive(Default)]
struct File {
    children: Vec<String>,
    /// By the (inline) module they stand in.
    imports: Vec<(Module, Import)>,
    /// By the (inline) module they stand in.
    paths: Vec<(Module, Vec<String>)>,
}

struct Import {
    path: Vec<String>,
    alias: String,
    public: bool,
}

/// Reads the library whose `lib.rs` lies in `src`.
///
/// # Errors
/// Files that are not there, or not Rust.
pub fn read(src: &Path) -> Result<Names> {
    let mut files = BTreeMap::new();
    read_module(Module::new(), &src.join("lib.rs"), src, &mut files)?;
    Ok(Resolver { files }.names())
}

fn read_module(
    module: Module,
    path: &Path,
    inner: &Path,
    files: &mut BTreeMap<Module, File>,
) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let tokens: TokenStream =
        text.parse().map_err(|e| anyhow!("{}: {e}", path.display())).context("reading tokens")?;
    let mut file = File::default();
    file.read(&module, tokens);
    let children = file.children.clone();
    files.insert(module.clone(), file);
    for child in children {
        let folder = inner.join(&child);
        let flat = inner.join(format!("{child}.rs"));
        let path = if flat.exists() { flat } else { folder.join("mod.rs") };
        let module = module.iter().cloned().chain([child]).collect();
        read_module(module, &path, &folder, files)?;
    }
    Ok(())
}

impl File {
    fn read(&mut self, at: &Module, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut i = 0;
        while i < tokens.len() {
            let rest = &tokens[i..];
            i += match rest {
                [TokenTree::Punct(hash), TokenTree::Group(attribute), ..]
                    if hash.as_char() == '#' && is_test(&attribute.stream().to_string()) =>
                {
                    2 + item_len(&rest[2..])
                }
                [TokenTree::Ident(word), TokenTree::Ident(name), end, ..] if word == "mod" => {
                    match end {
                        TokenTree::Group(inline) => {
                            let at = at.iter().cloned().chain([name.to_string()]).collect();
                            self.read(&at, inline.stream());
                        }
                        _ => self.children.push(name.to_string()),
                    }
                    3
                }
                [TokenTree::Ident(word), next, ..] if word == "use" && !is(next, '<') => {
                    let len = rest.iter().position(|t| is(t, ';')).unwrap_or(rest.len());
                    let public = is_public(&tokens[..i]);
                    for (path, alias) in import_tree(&rest[1..len]) {
                        self.imports.push((at.clone(), Import { path, alias, public }));
                    }
                    len
                }
                [TokenTree::Ident(_), ..] => {
                    let (path, len) = path_at(rest);
                    if path.len() > 1 {
                        self.paths.push((at.clone(), path));
                    }
                    len
                }
                [TokenTree::Group(group), ..] => {
                    self.read(at, group.stream());
                    1
                }
                _ => 1,
            };
        }
    }
}

fn is(token: &TokenTree, what: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == what)
}

fn is_test(attribute: &str) -> bool {
    let attribute: String = attribute.split_whitespace().collect();
    attribute == "cfg(test)" || attribute.starts_with("cfg(all(test")
}

/// Does `pub` or `pub(..)` stand at the end?
fn is_public(before: &[TokenTree]) -> bool {
    let before = match before {
        [before @ .., TokenTree::Group(group)] if group.delimiter() == Delimiter::Parenthesis => {
            before
        }
        before => before,
    };
    matches!(before.last(), Some(TokenTree::Ident(word)) if word == "pub")
}

/// Tokens of the item, field or statement that begins here.
fn item_len(tokens: &[TokenTree]) -> usize {
    let is_use = tokens.iter().take(4).any(|t| matches!(t, TokenTree::Ident(w) if w == "use"));
    let ends = |t: &TokenTree| match t {
        TokenTree::Group(group) => !is_use && group.delimiter() == Delimiter::Brace,
        token => is(token, ';') || (!is_use && is(token, ',')),
    };
    tokens.iter().position(ends).map_or(tokens.len(), |end| end + 1)
}

/// The path that begins here, and how many tokens it has.
fn path_at(tokens: &[TokenTree]) -> (Vec<String>, usize) {
    let (mut path, mut len) = (Vec::new(), 0);
    while let Some(TokenTree::Ident(word)) = tokens.get(len) {
        path.push(word.to_string());
        len += 1;
        match &tokens[len..] {
            [a, b, TokenTree::Ident(_), ..] if is(a, ':') && is(b, ':') => len += 2,
            _ => break,
        }
    }
    (path, len)
}

/// All paths of what stands between `use` and `;`, and the names that they get.
fn import_tree(tokens: &[TokenTree]) -> Vec<(Vec<String>, String)> {
    let mut found = Vec::new();
    for tree in tokens.split(|t| is(t, ',')) {
        let (mut path, len) = path_at(tree);
        match &tree[len..] {
            [a, b, TokenTree::Group(group)] if is(a, ':') && is(b, ':') => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                for (rest, alias) in import_tree(&inner) {
                    let path = path.iter().cloned().chain(rest).collect();
                    found.push((path, alias));
                }
            }
            [a, b, star] if is(a, ':') && is(b, ':') && is(star, '*') => {
                found.push((path, "*".to_owned()));
            }
            rest => {
                if path.last().is_some_and(|last| last == "self") && path.len() > 1 {
                    path.pop();
                }
                let renamed = match rest {
                    [TokenTree::Ident(_as), TokenTree::Ident(name)] => Some(name.to_string()),
                    _ => None,
                };
                if let Some(last) = path.last().cloned() {
                    found.push((path, renamed.unwrap_or(last)));
                }
            }
        }
    }
    for (path, _) in &mut found {
        // `{self, X}` behind a prefix.
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
    }
    found
}

struct Resolver {
    files: BTreeMap<Module, File>,
}

impl Resolver {
    fn names(&self) -> Names {
        let mut names = Names::new();
        for (module, file) in &self.files {
            let named = names.entry(module.clone()).or_default();
            let imports = file.imports.iter().map(|(at, import)| (at, &import.path, import.public));
            let paths = file.paths.iter().map(|(at, path)| (at, path, false));
            for (at, path, public) in imports.chain(paths) {
                let Some(absolute) = self.absolute(at, path) else { continue };
                let target = self.target(&absolute, 0);
                let from_child = target.len() > module.len() && target.starts_with(module);
                if target != *module && !(public && from_child) {
                    named.entry(target).or_default().insert(path.join("::"));
                }
            }
        }
        names
    }

    /// From the crate's root on; `None` when it is none of this crate's.
    fn absolute(&self, at: &Module, path: &[String]) -> Option<Module> {
        let mut from = at.clone();
        let mut rest = path;
        match path[0].as_str() {
            "crate" => (from, rest) = (Module::new(), &path[1..]),
            "self" => rest = &path[1..],
            "super" => {
                while let [first, others @ ..] = rest
                    && first == "super"
                {
                    from.pop();
                    rest = others;
                }
            }
            first => {
                let child: Module = at.iter().cloned().chain([first.to_owned()]).collect();
                if !self.files.contains_key(&child) {
                    return None;
                }
            }
        }
        from.extend(rest.iter().cloned());
        Some(from)
    }

    /// The file in which an item is defined, as far as imports tell.
    fn target(&self, item: &[String], depth: usize) -> Module {
        let files = (0..=item.len()).rev().map(|len| &item[..len]);
        let module = files.into_iter().find(|module| self.files.contains_key(*module));
        let module = module.expect("the root is a file").to_vec();
        let Some(name) = item.get(module.len()).filter(|_| depth < 8) else { return module };
        let rest = &item[module.len() + 1..];
        for (at, import) in &self.files[&module].imports {
            let Some(mut path) = self.absolute(at, &import.path) else { continue };
            if import.alias == "*" {
                path.push(name.clone());
                // Whatever a file imports wholly and does not define itself.
                let there = self.target(&path, depth + 1);
                if import.public && there.len() > module.len() {
                    return there;
                }
            } else if import.alias == *name && path != item {
                path.extend(rest.iter().cloned());
                return self.target(&path, depth + 1);
            }
        }
        module
    }
}

/// The sets of modules each of which names all others of its set, be it by way of some of them.
pub fn circles(names: &Names) -> Vec<BTreeSet<Module>> {
    let reach: BTreeMap<&Module, BTreeSet<&Module>> =
        names.keys().map(|module| (module, reached_from(names, module))).collect();
    let mut circles: Vec<BTreeSet<Module>> = Vec::new();
    for (module, reached) in &reach {
        if !circles.iter().any(|circle| circle.contains(*module)) {
            let back = reached.iter().filter(|other| reach[**other].contains(*module));
            let circle: BTreeSet<Module> = back.map(|other| (*other).clone()).collect();
            if circle.len() > 1 {
                circles.push(circle);
            }
        }
    }
    circles
}

fn reached_from<'a>(names: &'a Names, module: &Module) -> BTreeSet<&'a Module> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&Module> = names[module].keys().collect();
    while let Some(module) = next.pop() {
        if reached.insert(module) {
            next.extend(names[module].keys());
        }
    }
    reached
}

/// The same of a crate's rooms: its top-level modules, each with all that is in it.
pub fn rooms(names: &Names) -> Names {
    let room = |module: &Module| module[..module.len().min(1)].to_vec();
    let mut rooms = Names::new();
    for (module, named) in names {
        let from = rooms.entry(room(module)).or_default();
        for (other, paths) in named.iter().filter(|(other, _)| room(other) != room(module)) {
            let by = format!("{}: {}", module.join("::"), paths.iter().next().expect("a path"));
            from.entry(room(other)).or_default().insert(by);
        }
    }
    rooms
}

/// Who names whom within a circle, a line each.
pub fn told(names: &Names, circle: &BTreeSet<Module>) -> String {
    let mut lines = Vec::new();
    for module in circle {
        for (other, paths) in names[module].iter().filter(|(other, _)| circle.contains(*other)) {
            let paths = paths.iter().cloned().collect::<Vec<_>>().join(", ");
            lines.push(format!("  {} -> {} ({paths})", module.join("::"), other.join("::")));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_of(files: &[(&str, &str)]) -> Names {
        let src = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = src.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        read(src.path()).unwrap()
    }

    fn arrows(names: &Names) -> Vec<String> {
        let of = |(from, to): (&Module, &BTreeMap<Module, _>)| -> Vec<String> {
            to.keys().map(|to| format!("{} -> {}", from.join("::"), to.join("::"))).collect()
        };
        names.iter().flat_map(of).collect()
    }

    #[test]
    fn paths_are_followed_to_the_file_that_defines() {
        let names = names_of(&[
            ("lib.rs", "mod a; mod b; pub use a::inner::Deep;"),
            ("a.rs", "pub mod inner; pub use inner::Deep; use crate::b::{self, one::X, Y as Z};"),
            ("a/inner.rs", "pub struct Deep; fn f() { println!(\"{}\", super::super::b::Y); }"),
            ("b.rs", "fn f() -> impl Sized + use<> { crate::a::Deep } // crate::a::Z"),
        ]);
        assert_eq!(arrows(&names), ["a -> b", "a::inner -> b", "b -> a::inner"]);
        let circle = circles(&names);
        assert_eq!(circle.len(), 1);
        assert_eq!(
            told(&names, &circle[0]),
            "  a::inner -> b (super::super::b::Y)\n  b -> a::inner (crate::a::Deep)"
        );
        assert_eq!(circles(&rooms(&names)).len(), 1);
    }

    #[test]
    fn what_only_tests_have_is_left_out() {
        let names = names_of(&[
            ("lib.rs", "mod a; mod b; #[cfg(test)] mod c;"),
            (
                "a.rs",
                "#[cfg(test)] use crate::b::{Y, Z};
                 struct S { #[cfg(test)] y: crate::b::Y, z: u8 }
                 #[cfg(test)] mod tests { use crate::b::*; }
                 #[cfg(all(test, unix))] #[allow(unused)] fn f(y: crate::b::Y) -> u8 { crate::b::g() }",
            ),
            ("b.rs", "use crate::a::S;"),
        ]);
        assert_eq!(arrows(&names), ["b -> a"]);
        assert!(circles(&names).is_empty());
    }
}
