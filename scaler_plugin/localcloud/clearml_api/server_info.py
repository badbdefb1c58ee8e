"""Login, and what the server says about itself and its one user."""

from __future__ import annotations

from scaler_plugin.localcloud.clearml_api.answers import (
    API_VERSION,
    COMPANY_ID,
    SERVER_VERSION,
    USER_ID,
    ApiError,
    Document,
)
from scaler_plugin.localcloud.clearml_api.call import Call, Endpoint


def login(call: Call) -> Document:
    """A token for whoever came in, by key pair or by an older token."""
    return {"token": call.new_token(call.data.get("expiration_sec"))}


def _root_only(allowed: str) -> Endpoint:
    def refuse(_: Call) -> Document:
        raise ApiError(403, 20, "Forbidden (not allowed for role)", role="user", allowed=allowed)

    return Endpoint(refuse)


def get_current_user(call: Call) -> Document:
    """The one user."""
    return {
        "user": {
            "company": {"id": COMPANY_ID, "name": "clearml"},
            "created": call.state.documents["server"]["server"].get("created", call.stamp()),
            "family_name": "User",
            "given_name": "Default",
            "id": USER_ID,
            "name": "Default User",
            "role": "user",
        },
        "getting_started": {
            "agentName": "clearml",
            "configure": "clearml-init",
            "install": "pip install clearml",
            "packageName": "clearml",
        },
        "settings": {"max_download_items": 50000},
    }


def supported_modes(_: Call) -> Document:
    """How people may log in: with credentials only."""
    return {
        "authenticated": True,
        "basic": {"enabled": False, "guest": {"enabled": False}},
        "server_errors": {"es_connection_error": False, "missed_es_upgrade": False},
        "sso": {},
        "sso_providers": [],
    }


INFO: Document = {"version": SERVER_VERSION, "build": "", "commit": "", "api_version": API_VERSION}

ENDPOINTS = {
    "auth.login": Endpoint(login),
    "auth.logout": Endpoint(lambda _: {}, "2.2"),
    # For the server's own services (its file server asks it); users are refused.
    "auth.validate_token": _root_only("(system, root)"),
    "users.get_current_user": Endpoint(get_current_user),
    "server.info": Endpoint(lambda _: INFO, "2.12"),
    "server.config": _root_only("(root, system)"),
    "server.endpoints": _root_only("(root, system)"),
    "server.report_stats_option": Endpoint(lambda _: {"enabled": False, "supported": False}, "2.4"),
    "login.supported_modes": Endpoint(supported_modes),
    "debug.ping": Endpoint(lambda _: {"msg": "ClearML server"}, public=True),
    "organization.get_tags": Endpoint(lambda _: {"tags": []}, "2.8"),
}
