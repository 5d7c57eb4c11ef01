//! How much confinement a run asks for, and what it gets.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Account, Lack, Support};
use crate::failure::Failure;

/// How much confinement is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As much as the host permits.
    #[default]
    Auto,
    /// All of it, or a refusal.
    Strict,
    /// None. Root still runs machines as another user.
    Off,
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "strict" => Ok(Self::Strict),
            "off" => Ok(Self::Off),
            _ => Err("expected auto, strict or off".to_owned()),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Strict => "strict",
            Self::Off => "off",
        })
    }
}

/// How a machine's programs are confined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    /// What the host permits; `None` if they are not confined.
    pub(crate) support: Option<Support>,
    /// Whom they run as, if this process is root.
    pub(crate) account: Option<Account>,
}

impl Decision {
    /// Decides. `support` is what the host permits, `further` what is also missing because of how the machine is run, and
    /// `account` whom its programs run as. Returns the decision with the reason and, if something is missing, the notice.
    ///
    /// # Errors
    /// Everything is asked for, and something is missing.
    pub(crate) fn new(
        level: Level,
        support: &Support,
        further: &[Lack],
        account: Option<Account>,
    ) -> Result<(Self, String, Option<String>), Failure> {
        let runs_as = account.as_ref().map_or(String::new(), |account| format!(", as the user {}", account.name));
        if level == Level::Off {
            let notice = "nothing confines the hypervisor (--confine=off)".to_owned();
            return Ok((Self { support: None, account }, format!("{notice}{runs_as}"), Some(notice)));
        }
        let lacks: Vec<&Lack> = support.lacks.iter().chain(further).collect();
        let Some(first) = lacks.first() else {
            let reason = format!("the hypervisor is confined: {}{runs_as}", support.describe());
            return Ok((Self { support: Some(support.clone()), account }, reason, None));
        };
        let what = lacks.iter().map(|lack| lack.part.as_str()).collect::<Vec<_>>().join(", ");
        if level == Level::Strict {
            return Err(Failure::new(
                "--confine=strict",
                format_args!("it is not possible here: {what}: {}", first.cause),
            )
            .with_hint(&first.remedy));
        }
        let notice = format!("the hypervisor is less confined than it could be: {what}: {}", first.cause);
        let reason = format!("{notice}; to mend it: {}{runs_as}", first.remedy);
        Ok((
            Self { support: Some(support.clone()), account },
            reason,
            Some(format!("{notice}; lamina doctor says more")),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Namespace;
    use super::*;

    fn lack() -> Lack {
        Lack { part: "no user namespace".into(), cause: "EPERM".into(), remedy: "load the profile".into() }
    }

    fn full() -> Support {
        Support { namespaces: Namespace::ALL.into(), ..Support::default() }
    }

    #[test]
    fn what_is_missing_is_said_once_and_refused_if_all_is_asked_for() {
        let poor = Support { lacks: vec![lack()], ..Support::default() };
        let (decision, reason, notice) = Decision::new(Level::Auto, &poor, &[], None).unwrap();
        assert_eq!(decision.support, Some(poor.clone()));
        assert!(reason.contains("load the profile"), "{reason}");
        assert!(notice.is_some_and(|line| line.contains("no user namespace: EPERM") && line.lines().count() == 1));
        let refused = Decision::new(Level::Strict, &poor, &[], None).unwrap_err();
        assert_eq!(refused.hint(), Some("load the profile"));
        assert!(Decision::new(Level::Strict, &full(), &[lack()], None).is_err());
    }

    #[test]
    fn full_confinement_needs_no_notice_and_none_gets_one() {
        let (decision, reason, notice) = Decision::new(Level::Strict, &full(), &[], None).unwrap();
        assert!(decision.support.is_some() && notice.is_none());
        assert!(reason.contains("user, mount, network, pid, ipc and uts namespaces"), "{reason}");
        let (off, _, notice) = Decision::new(Level::Off, &full(), &[lack()], None).unwrap();
        assert!(off.support.is_none() && notice.is_some_and(|line| line.contains("--confine=off")));
    }

    #[test]
    fn levels_are_read_as_they_are_written() {
        for level in [Level::Auto, Level::Strict, Level::Off] {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert!("on".parse::<Level>().is_err());
    }
}
