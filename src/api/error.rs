//! Errors as the API says them: `{"error": {"code": …, "message": …}}`.

use actix_web::error::JsonPayloadError;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use lanrage_actors::browser::messages::HostedError;
use lanrage_actors::party::messages::PartyError;
use lanrage_actors::peer::messages::PingError;
use serde_json::json;

/// `code` is for programs and stable, `message` for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(super) fn too_large() -> Self {
        let limit = super::server::MAX_BODY / 1024;
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", format!("the request is larger than {limit} KiB"))
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        if self.status == StatusCode::UNAUTHORIZED {
            response.insert_header((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        }
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.insert_header((HeaderName::from_static("retry-after"), HeaderValue::from_static("1")));
        }
        response.json(json!({ "error": { "code": self.code, "message": self.message } }))
    }
}

impl From<PartyError> for Problem {
    fn from(error: PartyError) -> Self {
        let status = match &error {
            PartyError::BadCode(..) | PartyError::BadLink(..) | PartyError::BadName(..) => StatusCode::BAD_REQUEST,
            PartyError::NoSuchParty(_) | PartyError::UnknownMember(_) => StatusCode::NOT_FOUND,
            PartyError::AlreadyInParty(_)
            | PartyError::NotInParty
            | PartyError::PartyFull(_)
            | PartyError::NameTaken(_)
            | PartyError::VersionMismatch { .. }
            | PartyError::CannotKickSelf
            | PartyError::Busy => StatusCode::CONFLICT,
            PartyError::Kicked | PartyError::NotHost(_) => StatusCode::FORBIDDEN,
            PartyError::NoBootstrap { .. } => StatusCode::GATEWAY_TIMEOUT,
            PartyError::Store(_) | PartyError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.code(), error.to_string())
    }
}

impl From<PingError> for Problem {
    fn from(error: PingError) -> Self {
        let (status, code) = match &error {
            PingError::UnknownPeer => (StatusCode::NOT_FOUND, "unknown_peer"),
            PingError::NotConnected => (StatusCode::CONFLICT, "not_connected"),
            PingError::Timeout(_) => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<HostedError> for Problem {
    fn from(error: HostedError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_server", error.to_string())
    }
}

/// A body that is no JSON, or not the JSON that was asked for.
pub(super) fn from_json(error: &JsonPayloadError) -> Problem {
    if matches!(error, JsonPayloadError::Overflow { .. } | JsonPayloadError::OverflowKnownLength { .. }) {
        return Problem::too_large();
    }
    Problem::bad_request(format!("the body is not what this request takes: {error}"))
}
