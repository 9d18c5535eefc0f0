"""Who is asking, and small questions that the client and its command line ask of the Hub itself."""

from __future__ import annotations

from loopback.access import Call, alone
from loopback.wire import Answer, RefusedError, as_json


@alone("GET", "api/whoami-v2")
def whoami(call: Call) -> Answer:
    token = call.user()
    orgs = [
        {"type": "org", "id": name, "name": name, "fullname": name, "isEnterprise": False, "roleInOrg": role}
        for name, role in call.hub.people.organisations_of(token.user).items()
    ]
    access = {"displayName": f"{token.role} token", "role": token.role, "createdAt": "2024-01-01T00:00:00.000Z"}
    found: dict[str, object] = {
        "type": "user",
        "id": f"{token.user:0<24}",
        "name": token.user,
        "fullname": token.user.title(),
        "email": f"{token.user}@localhost",
        "emailVerified": True,
        "isPro": False,
        "canPay": False,
        "periodEnd": None,
        "avatarUrl": "",
        "orgs": orgs,
        "auth": {"type": "access_token", "accessToken": access},
    }
    return as_json(found)


@alone("GET", "api/agent-harnesses")
def harnesses(call: Call) -> Answer:
    """The client asks which programs it may be running in; here none is known."""
    return as_json({"standardEnvVars": [], "harnesses": {}})


@alone("HEAD", "api/telemetry")
def telemetry(call: Call) -> Answer:
    return Answer()


def overview(call: Call, name: str) -> Answer:
    if name not in call.hub.people.users:
        raise RefusedError(404, "This user does not exist")
    return as_json({"user": name, "fullname": name.title(), "isPro": False, "avatarUrl": "", "numModels": 0})
