"""Sends the events of alerts through apprise: to mail, chat and MQTT, among others."""

import logging
from typing import Any

from llava_dvc.errors import UserError
from llava_dvc.serving.watch.alerts import AlertEvent
from llava_dvc.serving.watch.delivery import EventDelivery, Failures

FAILURES = Failures(
    may_pass=lambda error: isinstance(error, NotAccepted),
    reason=lambda error: (
        "is not accepted" if isinstance(error, NotAccepted) else type(error).__name__
    ),
)


class NotAccepted(Exception):
    """The service cannot be reached or refuses the message. apprise does not say which."""


class Notifier:
    """Sends events to one address of apprise."""

    def __init__(self, url: str, number: int) -> None:
        """`number` stands for the address in messages: any part of it may be a secret.

        Raises UserError if apprise is missing, or does not know the address.
        """
        apprise = _load_apprise()
        service = apprise.Apprise.instantiate(url)
        if service is None:
            raise UserError(
                f"--notify: number {number} is not an address that apprise can use. Write it as on "
                "https://appriseit.com/services/."
            )
        self._apprise = apprise.Apprise()
        self._apprise.add(service)
        name = f"--notify {number} ({service.service_name})"
        self._delivery = EventDelivery(name, self._notify, FAILURES)

    def send(self, event: AlertEvent) -> None:
        """Sends the event soon. Does not wait."""
        self._delivery.send(event)

    def close(self) -> None:
        """Waits a little for what is left."""
        self._delivery.close()

    def _notify(self, event: dict[str, Any]) -> None:
        is_accepted = self._apprise.notify(
            title=f"Alert {event['state']}: {event['alert']}",
            body=event_text(event),
            notify_type="warning" if event["state"] == "on" else "success",
            body_format="text",  # apprise then escapes > and < for services that take HTML
        )
        if not is_accepted:
            raise NotAccepted


def event_text(event: dict[str, Any]) -> str:
    """Returns the content of an event in one line."""
    place = f"{event['camera']}/{event['zone']}" if event["zone"] else event["camera"]
    return (
        f"{place}: {event['count']} people (80 % interval {event['low']} to {event['high']}) at "
        f"{event['time']}. It began at {event['since']}."
    )


def _load_apprise() -> Any:
    try:
        import apprise  # late: an optional package
    except ImportError:
        raise UserError(
            "--notify: needs the package apprise. Install it: `pip install 'llava-dvc[alerts]'`."
        ) from None
    # Its messages hold addresses. Without a handler Python would print them.
    log = logging.getLogger("apprise")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    return apprise
