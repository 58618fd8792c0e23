//! Ways to break the protocol on purpose, for the tests that prove that the checkers notice.
//!
//! Only a build with the feature `canary`, which nothing but tests asks for, can be told to break
//! anything: in one configuration, or, where a test does not make the configurations itself, in all
//! that are made on its thread ([`Canary::plant`]).

/// What is broken.
#[cfg_attr(
    not(feature = "canary"),
    expect(unreachable_pub, reason = "only the feature's builds give it out")
)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Canary {
    /// Nothing.
    #[default]
    None,
    /// Backups acknowledge a prepare when they begin to write it.
    AcknowledgeBeforeDurable,
    /// One member that has a prepare is enough for it to commit.
    CommitWithoutQuorum,
    /// What is damaged is said never to have been acknowledged.
    NackDamage,
    /// One member that never acknowledged an op is enough to drop it.
    DropWithoutNacks,
    /// The log of the lowest log view among the votes is taken.
    OlderLog,
    /// A primary leads its view again after a restart.
    LeadAfterRestart,
    /// What a log has from older views is trusted.
    TrustStale,
    /// Prepares are acknowledged in a view that is not durable yet.
    AcknowledgeUnvouched,
    /// Reads do not wait for a round of heartbeats.
    ReadWithoutRound,
    /// A restart finds the view whose log it has, and not the one that it has left it for.
    ForgetView,
}

#[cfg(feature = "canary")]
thread_local! {
    static PLANTED: std::cell::Cell<Canary> = const { std::cell::Cell::new(Canary::None) };
}

#[cfg(feature = "canary")]
impl Canary {
    /// Breaks this in every configuration that is made on this thread from now on.
    pub fn plant(self) {
        PLANTED.set(self);
    }

    /// What is broken in configurations that are made now.
    pub(super) fn planted() -> Canary {
        PLANTED.get()
    }
}

impl super::Config {
    /// Whether this is broken.
    #[cfg(feature = "canary")]
    pub(super) fn breaks(&self, canary: Canary) -> bool {
        self.canary == canary
    }

    /// Whether this is broken: never.
    #[cfg(not(feature = "canary"))]
    pub(super) fn breaks(&self, _: Canary) -> bool {
        false
    }
}
