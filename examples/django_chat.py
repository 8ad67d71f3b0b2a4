"""A chat in Django: its own users and sessions, rooms with a history in its database, and private messages.

A whole Django project in one file. Make the database and the users, then run it::

    export CHAT_DATABASE=chat.sqlite3
    python examples/django_chat.py
    hubplane serve django_chat:app --app-dir examples

``POST /login`` logs in as in any Django application, and the session's user is the hub's user.
"""

from __future__ import annotations

import json
import os
import secrets

import django
from django.conf import settings

settings.configure(
    SECRET_KEY=os.environ.get("CHAT_SECRET") or secrets.token_hex(),  # processes that act as one need the same
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("CHAT_DATABASE", "chat.sqlite3")}
    },
    USE_TZ=True,
)
django.setup()

from django.contrib.auth import aauthenticate, alogin  # noqa: E402 - models want the settings first
from django.core.asgi import get_asgi_application  # noqa: E402
from django.db import connection, models  # noqa: E402
from django.http import HttpRequest, JsonResponse  # noqa: E402
from django.middleware.csrf import get_token  # noqa: E402
from django.urls import path  # noqa: E402
from django.views.decorators.http import require_POST  # noqa: E402

from hubplane import (  # noqa: E402
    DjangoSessionAuthenticator,
    Hub,
    HubApp,
    HubException,
    authorize,
    django_database,
)


class Line(models.Model):
    """One message in a room."""

    room = models.CharField(max_length=50, db_index=True)
    user = models.CharField(max_length=150)
    text = models.TextField()

    class Meta:
        """A model outside of an application's package says where it belongs."""

        app_label = "chat"

    def __str__(self) -> str:
        return f"{self.user} in {self.room}: {self.text}"


def form(request: HttpRequest) -> JsonResponse:
    """Where a page would be; Django's protection wants a token from it back."""
    return JsonResponse({"csrf": get_token(request)})


@require_POST
async def login(request: HttpRequest) -> JsonResponse:
    """For who knows the password."""
    data = json.loads(request.body)
    user = await aauthenticate(request, username=data["name"], password=data["password"])
    if user is None:
        return JsonResponse({"error": "Wrong name or password."}, status=401)
    await alogin(request, user)
    return JsonResponse({"name": user.get_username()})


@require_POST
def say(request: HttpRequest) -> JsonResponse:
    """A plain view that sends from outside a hub; with `async def` it would await."""
    if not request.user.is_authenticated:
        return JsonResponse({"error": "Log in first."}, status=401)
    data = json.loads(request.body)
    hubs.context(ChatHub).clients.group(data["room"]).send("ReceiveMessage", request.user.get_username(), data["text"])
    return JsonResponse({"sent": True})


urlpatterns = [path("", form), path("login", login), path("say", say)]


@authorize
class ChatHub(Hub):
    """For users only."""

    async def join(self, room: str) -> None:
        """Clients call this as Join("..."); from then on they hear the room."""
        await self.groups.add(self.context.connection_id, room)

    async def leave(self, room: str) -> None:
        """Leave("...") ends it."""
        await self.groups.remove(self.context.connection_id, room)

    @django_database
    async def send_message(self, room: str, text: str) -> None:
        """SendMessage("lobby", "hello"); everybody in the room gets ReceiveMessage(user, text), and it is kept."""
        if not text.strip():
            raise HubException("Say something.")
        user = self.context.user_identifier
        await Line.objects.acreate(room=room, user=user, text=text)
        await self.clients.group(room).send("ReceiveMessage", user, text)

    @django_database
    def history(self, room: str) -> list[tuple[str, str]]:
        """A plain method runs in a thread, so it may use the database as any view does."""
        return list(Line.objects.filter(room=room).order_by("id").values_list("user", "text"))

    async def whisper(self, to: str, text: str) -> None:
        """Whisper("bob", "psst") reaches Bob in all his windows, on whatever node they are."""
        await self.clients.user(to).send("ReceiveMessage", self.context.user_identifier, text)


hubs = HubApp(authenticators=[DjangoSessionAuthenticator()])
hubs.add_hub("/chat", ChatHub)

app = hubs.beside(get_asgi_application(), at="/hubs")


if __name__ == "__main__":
    from django.contrib.auth.models import User
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    with connection.schema_editor() as editor:  # a project of several files has migrations for this
        editor.create_model(Line)
    for name, password in (("ann", "apple"), ("bob", "banana")):
        User.objects.create_user(name, password=password)
    print("The database is there, and so are ann and bob.")
