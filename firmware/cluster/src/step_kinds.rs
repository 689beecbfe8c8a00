//! What the steps of a plan are without what they are about: tests kill the manager around each kind,
//! and a new one without a fault point fails them.

/// Makes `StepKind` for the `Step` of a module, and its `kind`. A variant that is left out does
/// not compile.
macro_rules! step_kinds {
    ($($kind:ident)+) => {
        /// What a step is, without what it is about.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum StepKind { $( #[doc = concat!("[`Step::", stringify!($kind), "`]")] $kind, )+ }

        impl StepKind {
            /// Every kind.
            pub const ALL: &'static [StepKind] = &[ $( StepKind::$kind, )+ ];
        }

        impl Step {
            /// What it is.
            pub fn kind(&self) -> StepKind {
                match self { $( Step::$kind { .. } => StepKind::$kind, )+ }
            }
        }
    };
}

pub(crate) use step_kinds;
