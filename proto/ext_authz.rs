//! Envoy's external authorization, generated: only what a gateway speaks of it, wire-compatible.

/// Envoy's packages.
pub mod envoy {
    /// `envoy.service`.
    pub mod service {
        /// `envoy.service.auth`.
        pub mod auth {
            /// The question and the answer.
            pub mod v3 {
                tonic::include_proto!("envoy.service.auth.v3");
            }
        }
    }
    /// `envoy.config`.
    pub mod config {
        /// `envoy.config.core`.
        pub mod core {
            /// Headers.
            pub mod v3 {
                tonic::include_proto!("envoy.config.core.v3");
            }
        }
    }
    /// `envoy.type`.
    pub mod r#type {
        /// Statuses.
        pub mod v3 {
            tonic::include_proto!("envoy.r#type.v3");
        }
    }
}
/// Google's.
pub mod google {
    /// Statuses.
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}
