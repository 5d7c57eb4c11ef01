//! The account that a process runs as: an image's `User` looked up in the image's own account files.
//!
//! The rules are those of the image specification (`config.md`, "User") as container runtimes read them: a name or
//! number before the colon, and one after it; without a group, the user's own group and every group that lists the user
//! as a member.

/// What a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary group ids, in the order of the group file.
    pub groups: Vec<u32>,
    /// The home directory, `/` for a number that has no account.
    pub home: String,
}

struct User<'text> {
    name: &'text str,
    uid: u32,
    gid: u32,
    home: &'text str,
}

struct Group<'text> {
    name: &'text str,
    gid: u32,
    members: &'text str,
}

fn users(passwd: &str) -> impl Iterator<Item = User<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(User { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        Some(Group { name, gid: fields.next()?.parse().ok()?, members: fields.next().unwrap_or_default() })
    })
}

/// Finds the account that `wanted` names in the text of `/etc/passwd` and `/etc/group`.
///
/// A number needs no entry in either file. An empty `wanted` is root.
///
/// # Errors
/// One line that names the user or group that is neither a number nor in the file.
pub fn resolve(wanted: &str, passwd: &str, group: &str) -> Result<Account, String> {
    let (user_part, group_part) = wanted.split_once(':').unwrap_or((wanted, ""));
    let user_part = if user_part.is_empty() { "0" } else { user_part };
    let number = user_part.parse::<u32>().ok();
    let user = users(passwd).find(|user| user.name == user_part || Some(user.uid) == number);
    let mut account = match (&user, number) {
        (Some(user), _) => Account {
            uid: user.uid,
            gid: user.gid,
            groups: Vec::new(),
            home: if user.home.is_empty() { "/" } else { user.home }.to_owned(),
        },
        (None, Some(uid)) => Account { uid, gid: 0, groups: Vec::new(), home: "/".to_owned() },
        (None, None) => return Err(format!("user {user_part:?} is not in the image's /etc/passwd")),
    };
    if group_part.is_empty() {
        let name = user.map_or("", |user| user.name);
        let listed = |group: &Group<'_>| !name.is_empty() && group.members.split(',').any(|member| member == name);
        account.groups = groups(group).filter(listed).map(|group| group.gid).collect();
    } else {
        let number = group_part.parse::<u32>().ok();
        let found = groups(group).find(|group| group.name == group_part || Some(group.gid) == number);
        account.gid = found
            .map(|group| group.gid)
            .or(number)
            .ok_or_else(|| format!("group {group_part:?} is not in the image's /etc/group"))?;
    }
    Ok(account)
}

/// Returns the id of the group `wanted`, a name in the text of `/etc/group` or a number.
///
/// # Errors
/// One line that names the group that is neither.
pub fn group(wanted: &str, group: &str) -> Result<u32, String> {
    let found = groups(group).find(|group| group.name == wanted).map(|group| group.gid);
    found.or_else(|| wanted.parse().ok()).ok_or_else(|| format!("group {wanted:?} is not in the image's /etc/group"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nweb:x:33:33:w:/var/www:/bin/sh\nbroken\nnohome:x:5:6\n";
    const GROUP: &str = "root:x:0:\nweb:x:33:\nssl:x:104:other,web\nlogs:x:4:web\nwebby:x:9:webmaster\n";

    fn account(uid: u32, gid: u32, groups: &[u32], home: &str) -> Result<Account, String> {
        Ok(Account { uid, gid, groups: groups.to_vec(), home: home.to_owned() })
    }

    #[test]
    fn every_form_of_user_is_resolved() {
        for (wanted, expected) in [
            ("", account(0, 0, &[], "/root")),
            ("root", account(0, 0, &[], "/root")),
            ("web", account(33, 33, &[104, 4], "/var/www")),
            ("33", account(33, 33, &[104, 4], "/var/www")),
            ("web:logs", account(33, 4, &[], "/var/www")),
            ("web:4", account(33, 4, &[], "/var/www")),
            ("web:777", account(33, 777, &[], "/var/www")),
            ("1000", account(1000, 0, &[], "/")),
            ("1000:1000", account(1000, 1000, &[], "/")),
            (":logs", account(0, 4, &[], "/root")),
            ("nohome", account(5, 6, &[], "/")),
        ] {
            assert_eq!(resolve(wanted, PASSWD, GROUP), expected, "{wanted:?}");
        }
    }

    #[test]
    fn unknown_names_are_named_with_the_file_that_lacks_them() {
        assert_eq!(resolve("nobody", PASSWD, GROUP).unwrap_err(), "user \"nobody\" is not in the image's /etc/passwd");
        assert_eq!(resolve("web:adm", PASSWD, GROUP).unwrap_err(), "group \"adm\" is not in the image's /etc/group");
    }

    #[test]
    fn a_group_is_a_name_or_a_number() {
        assert_eq!(group("ssl", GROUP), Ok(104));
        assert_eq!(group("777", GROUP), Ok(777));
        assert_eq!(group("adm", GROUP).unwrap_err(), "group \"adm\" is not in the image's /etc/group");
    }

    #[test]
    fn images_without_account_files_still_run_as_root_or_a_number() {
        assert_eq!(resolve("", "", ""), account(0, 0, &[], "/"));
        assert_eq!(resolve("7:8", "", ""), account(7, 8, &[], "/"));
    }
}
