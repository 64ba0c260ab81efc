//! Why no broker was reached, so far as it can be told: a file of our own, a certificate, the wrong scheme, silence.

use std::error::Error;
use std::io;

use http::Uri;
use protem_verify::codes::tool;
use rustls::CertificateError;
use tonic::{Code, Status};

use crate::cli::exit::{Exit, Failure};

/// A connection that broke or never was, for a person.
#[must_use]
pub fn unreached(status: &Status, broker: &Uri) -> Failure {
    let what = format!("no broker answers at {broker}");
    let failure = Failure::of(Exit::Unreachable, tool::UNREACHABLE, what);
    if status.code() == Code::DeadlineExceeded {
        return failure.because("it took the call and did not answer in time");
    }
    let mut deepest = status.message().to_owned();
    let mut next = status.source();
    while let Some(cause) = next {
        let io = cause.downcast_ref::<io::Error>();
        if let Some(tls) = tls(cause).or_else(|| io?.get_ref().and_then(|inner| tls(inner))) {
            return by_tls(failure, tls);
        }
        if let Some(io::ErrorKind::ConnectionRefused) = io.map(io::Error::kind) {
            return failure.because("nothing listens there");
        }
        deepest = cause.to_string();
        next = cause.source();
    }
    match deepest.as_str() {
        "deadline has elapsed" => failure.because("it took no connection within 5 s"),
        // What speaks TLS closes on who does not.
        _ if broker.scheme_str() == Some("http") => {
            let help = format!("{}; a broker with TLS is at https://…", failure.help);
            failure.because(deepest).helps(help)
        }
        _ => failure.because(deepest),
    }
}

fn tls<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    cause.downcast_ref::<rustls::Error>()
}

fn by_tls(failure: Failure, why: &rustls::Error) -> Failure {
    if let rustls::Error::InvalidMessage(_) = why {
        return failure
            .because("what answers there speaks no TLS")
            .helps("a broker without TLS, on this machine alone, is at http://…");
    }
    let rustls::Error::InvalidCertificate(certificate) = why else {
        return failure.because(why.to_string());
    };
    #[expect(clippy::wildcard_enum_match_arm, reason = "rustls may add more, and names each")]
    match certificate {
        CertificateError::UnknownIssuer => failure
            .because("its certificate comes from no CA that is trusted here")
            .helps("name the CA with `--ca FILE` (PROTEM_CA); by SPIFFE, the broker with `--broker-id`"),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => failure
            .because("its certificate has expired")
            .helps("have it renewed; the broker takes a new one without a restart"),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            failure
                .because("its certificate is for another name")
                .helps("write the name that the certificate has into `--broker`")
        }
        _ => failure.because(why.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(broker: &'static str, cause: io::Error, why: &str, help: &str) {
        let mut status = Status::unavailable("tcp connect error");
        status.set_source(std::sync::Arc::new(cause));
        let failure = unreached(&status, &Uri::from_static(broker));
        assert_eq!((failure.exit, failure.code.as_str()), (Exit::Unreachable, "PT-0701"));
        assert!(failure.why.contains(why), "{failure}");
        assert!(failure.help.contains(help), "{failure}");
    }

    #[test]
    fn what_went_wrong_leads_to_what_helps() {
        let bad = |why| io::Error::other(rustls::Error::InvalidCertificate(why));
        let https = "https://broker.example:7420";
        check(https, bad(CertificateError::UnknownIssuer), "no CA that is trusted", "--ca");
        check(https, bad(CertificateError::Expired), "has expired", "renewed");
        check(https, bad(CertificateError::NotValidForName), "another name", "--broker");
        let plain = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        check(https, io::Error::other(plain), "speaks no TLS", "http://");
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        check(https, refused, "nothing listens there", "protem dev");
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        check("http://127.0.0.1:1", refused, "nothing listens there", "protem dev");
        check("http://127.0.0.1:1", io::Error::other("closed"), "closed", "https://");
    }
}
