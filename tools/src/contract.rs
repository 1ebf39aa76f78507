//! The responses of both services to `GET /`, as the exercise has them, without the line feed.

/// Of the backend.
pub const BACKEND: &str = r#"{"body": "Je suis une r\u00e9ponse du backend"}"#;
/// Of the frontend; the spelling is part of the contract.
pub const FRONTEND: &str =
    r#"{"return": {"body": "Je suis une r\u00e9ponse du backend"}, "status": "[SUCESS]"}"#;
