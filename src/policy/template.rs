//! Claim templates: extra claims of a resource's credentials, filled from what was verified.

use std::sync::Arc;

use crate::policy::login::Login;

/// The value of an extra claim: constants and placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Constant(Arc<str>),
    Team,
    Task,
    Login(Arc<str>),
}

/// The longest value of a template claim in bytes, filled: credentials travel in headers.
pub const CLAIM_MAX: usize = 512;

impl Template {
    /// Reads `{identity.team}`, `{task.id}`, `{login.CLAIM}` and constants.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((constant, after)) = rest.split_once('{') {
            if constant.contains('}') {
                return Err("has a `}` without a `{`".to_owned());
            }
            if !constant.is_empty() {
                parts.push(Part::Constant(constant.into()));
            }
            let (name, after) = after.split_once('}').ok_or("has a `{` without a `}`")?;
            parts.push(placeholder(name)?);
            rest = after;
        }
        if rest.contains('}') {
            return Err("has a `}` without a `{`".to_owned());
        }
        if !rest.is_empty() {
            parts.push(Part::Constant(rest.into()));
        }
        if text.len() > CLAIM_MAX {
            return Err(format!("is longer than {CLAIM_MAX} bytes"));
        }
        Ok(Self(parts))
    }

    /// Fills it in.
    ///
    /// # Errors
    /// The login's claim that is absent or a list, or that the value is too long.
    pub fn fill(&self, team: &str, task: &str, login: &Login) -> Result<Arc<str>, String> {
        let mut value = String::new();
        for part in &self.0 {
            value.push_str(match part {
                Part::Constant(text) => text,
                Part::Team => team,
                Part::Task => task,
                Part::Login(claim) => login
                    .text(claim)
                    .ok_or_else(|| format!("the login has no claim `{claim}` that is a text"))?,
            });
        }
        if value.len() > CLAIM_MAX {
            return Err(format!("the value is longer than {CLAIM_MAX} bytes"));
        }
        Ok(value.into())
    }
}

fn placeholder(name: &str) -> Result<Part, String> {
    match (name, name.strip_prefix("login.")) {
        ("identity.team", _) => Ok(Part::Team),
        ("task.id", _) => Ok(Part::Task),
        (_, Some(claim)) if !claim.is_empty() => Ok(Part::Login(claim.into())),
        _ => Err(format!(
            "has the unknown placeholder `{{{name}}}`; there are `{{identity.team}}`, `{{task.id}}` and `{{login.CLAIM}}`"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Result<&str, &str>) {
        let mut login = Login::dev_identity("payments/agent");
        login.subject = "s".to_owned();
        let filled = Template::parse(text).and_then(|made| made.fill("payments", "t1", &login));
        match (filled, expect) {
            (Ok(got), Ok(wanted)) => assert_eq!(&*got, wanted, "{text}"),
            (Err(got), Err(wanted)) => assert!(got.contains(wanted), "{text}: {got}"),
            (got, wanted) => panic!("{text}: {got:?} is not {wanted:?}"),
        }
    }

    #[test]
    fn templates_take_only_what_was_verified() {
        check("constant", Ok("constant"));
        check("{identity.team}", Ok("payments"));
        check("a-{task.id}-{login.sub}", Ok("a-t1-s"));
        check("{login.groups}", Err("no claim `groups`"));
        check("{request.purpose}", Err("unknown placeholder"));
        check("{login.}", Err("unknown placeholder"));
        check("{task.id", Err("without a `}`"));
        check("task.id}", Err("without a `{`"));
        check(&"x".repeat(CLAIM_MAX + 1), Err("longer"));
    }
}
