//! What the control groups of this process leave it: cgroups(7), of version 1 and 2.
//!
//! A limit of any group from its own up to the root binds; of cores its own group has what all
//! others have left over. In a container the path of a group may be the host's: then only the mount
//! itself is there, and that is the container's.

use std::path::{Path, PathBuf};

use super::host::{Files, cores_of};

/// The tightest CPU quota of this process's control groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Quota {
    /// Thousandths of a core.
    pub(super) millicores: u64,
    /// The file that says so.
    pub(super) file: PathBuf,
}

/// The tightest memory limit of this process's control groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MemoryMax {
    pub(super) bytes: u64,
    /// The file that says so.
    pub(super) file: PathBuf,
}

impl Files<'_> {
    pub(super) fn quota(&self) -> Option<Quota> {
        let groups = self.groups("cpu");
        groups.iter().filter_map(|group| self.quota_of(group)).min_by_key(|quota| quota.millicores)
    }

    /// The quota of one group: `cpu.max` of version 2, two files in version 1.
    fn quota_of(&self, group: &Path) -> Option<Quota> {
        let file = group.join("cpu.max");
        if let Some(text) = self.text_at(&file) {
            let (quota_us, period_us) = text.split_once(' ')?;
            return quota(quota_us, period_us, file);
        }
        let file = group.join("cpu.cfs_quota_us");
        let quota_us = self.text_at(&file)?;
        quota(&quota_us, &self.text_at(&group.join("cpu.cfs_period_us"))?, file)
    }

    /// `memory.max` of version 2, `memory.limit_in_bytes` of version 1. No limit is a word there
    /// and more than any memory here.
    pub(super) fn memory_max(&self) -> Option<MemoryMax> {
        let groups = self.groups("memory");
        let files = groups
            .iter()
            .flat_map(|group| ["memory.max", "memory.limit_in_bytes"].map(|name| group.join(name)));
        let limits = files.filter_map(|file| {
            let bytes = self.text_at(&file)?.parse().ok()?;
            Some(MemoryMax { bytes, file })
        });
        limits.min_by_key(|limit| limit.bytes)
    }

    /// The cores of the nearest group that says: where its controller is off, a group has those of
    /// the one above.
    pub(super) fn cpuset(&self) -> Option<Vec<usize>> {
        let groups = self.groups("cpuset");
        let files = groups.iter().flat_map(|group| {
            ["cpuset.cpus.effective", "cpuset.effective_cpus"].map(|name| group.join(name))
        });
        files.into_iter().find_map(|file| self.text_at(&file)).map(|list| cores_of(&list))
    }

    /// The text of a file of this process's control group, for a controller of version 1 or for
    /// version 2.
    pub(super) fn own_group(&self, controller: &str, file: &str) -> Option<String> {
        let text = self.text("proc/self/cgroup")?;
        text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let is_meant = controllers.split(',').any(|name| name == controller);
            let mount = match controllers {
                "" => "sys/fs/cgroup".to_owned(),
                _ if is_meant => format!("sys/fs/cgroup/{controller}"),
                _ => return None,
            };
            self.text(&format!("{mount}/{}/{file}", path.trim_start_matches('/')))
        })
    }

    /// The directories of the groups with this controller, or of version 2: of each hierarchy from
    /// this process's own up to the root.
    fn groups(&self, controller: &str) -> Vec<PathBuf> {
        let text = self.text("proc/self/cgroup").unwrap_or_default();
        let mut groups = Vec::new();
        for line in text.lines() {
            // hierarchy:controllers:path
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            // Some systems mount controllers by all of their names.
            let mounts = match controllers {
                "" => vec!["sys/fs/cgroup".to_owned()],
                _ if controllers.split(',').any(|name| name == controller) => {
                    [controller, controllers].map(|name| format!("sys/fs/cgroup/{name}")).into()
                }
                _ => continue,
            };
            for mount in mounts {
                let mount = self.path(&mount);
                let group = mount.join(path.trim_start_matches('/'));
                let above = group.ancestors().take_while(|group| group.starts_with(&mount));
                groups.extend(above.map(Path::to_path_buf));
            }
        }
        groups
    }
}

/// `max` and -1 are no quota.
fn quota(quota_us: &str, period_us: &str, file: PathBuf) -> Option<Quota> {
    let quota_us = quota_us.parse::<u64>().ok()?;
    let period_us = period_us.trim().parse::<u64>().ok()?;
    let millicores = quota_us.checked_mul(1000)?.checked_div(period_us)?;
    Some(Quota { millicores, file })
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::FakeHost;
    use super::*;

    fn files(fake: &FakeHost) -> Files<'_> {
        Files::below(&fake.root)
    }

    #[test]
    fn quota_is_the_tightest_of_the_ancestors() {
        let fake = FakeHost::new("quota-v2");
        fake.write("proc/self/cgroup", "0::/pod/app\n")
            .write("sys/fs/cgroup/pod/app/cpu.max", "400000 100000\n")
            .write("sys/fs/cgroup/pod/cpu.max", "150000 100000\n")
            .write("sys/fs/cgroup/cpu.max", "max 100000\n");
        let quota = files(&fake).quota().expect("a quota");
        assert_eq!(quota.millicores, 1500);
        assert!(quota.file.ends_with("sys/fs/cgroup/pod/cpu.max"));
    }

    #[test]
    fn quota_of_version_1_is_found_at_the_mount() {
        let fake = FakeHost::new("quota-v1");
        fake.write("proc/self/cgroup", "3:cpu,cpuacct:/docker/abc\n2:memory:/x\n")
            .write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "50000\n")
            .write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
        let quota = files(&fake).quota().expect("a quota");
        assert_eq!(quota.millicores, 500);
        fake.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
        assert_eq!(files(&fake).quota(), None);
    }

    #[test]
    fn memory_is_the_least_that_a_group_leaves() {
        let fake = FakeHost::new("memory-v2");
        fake.write("proc/self/cgroup", "0::/pod/app\n")
            .write("sys/fs/cgroup/pod/app/memory.max", "max\n")
            .write("sys/fs/cgroup/pod/memory.max", "268435456\n");
        let limit = files(&fake).memory_max().expect("a limit");
        assert_eq!(limit.bytes, 256 << 20);
        assert!(limit.file.ends_with("sys/fs/cgroup/pod/memory.max"));
        fake.write("sys/fs/cgroup/pod/memory.max", "max\n");
        assert_eq!(files(&fake).memory_max(), None);
        let fake = FakeHost::new("memory-v1");
        fake.write("proc/self/cgroup", "4:memory:/docker/abc\n")
            .write("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n");
        assert_eq!(files(&fake).memory_max().map(|limit| limit.bytes), Some(1 << 30));
    }

    #[test]
    fn cores_are_those_of_the_nearest_group_that_says() {
        let fake = FakeHost::new("cpuset-v2");
        fake.write("proc/self/cgroup", "0::/pod/app\n")
            .write("sys/fs/cgroup/cpuset.cpus.effective", "0-7\n");
        assert_eq!(files(&fake).cpuset().expect("the root's").len(), 8);
        fake.write("sys/fs/cgroup/pod/cpuset.cpus.effective", "0-1,4\n");
        assert_eq!(files(&fake).cpuset(), Some(vec![0, 1, 4]));
        let fake = FakeHost::new("cpuset-v1");
        fake.write("proc/self/cgroup", "3:cpuset:/docker/abc\n0::/\n")
            .write("sys/fs/cgroup/cpuset/docker/abc/cpuset.effective_cpus", "2\n")
            .write("sys/fs/cgroup/cpuset/cpuset.effective_cpus", "0-3\n");
        assert_eq!(files(&fake).cpuset(), Some(vec![2]));
        assert_eq!(files(&FakeHost::new("cpuset-none")).cpuset(), None);
    }
}
