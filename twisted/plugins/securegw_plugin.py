"""What makes `twistd` know the command `securegw`."""

from twisted.application.service import ServiceMaker

securegw = ServiceMaker(
    "securegw",
    "gateway.app",
    "A secure gateway: PostgreSQL, with a short-lived JWT as the password.",
    "securegw",
)
