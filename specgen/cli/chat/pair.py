"""The chat's pair: /model, /draft and /spec."""

from specgen.cli.chat.chat import Chat
from specgen.core.defaults import DRAFT
from specgen.core.errors import UsageError
from specgen.core.events import LoadedModel
from specgen.core.types import ModelRef
from specgen.session.interface import SessionProtocol


def model(chat: Chat, argument: str) -> None:
    """/model: show the target, or go on with another pair."""
    if not argument:
        chat.tell(model_name(chat.conversation.session.pair.loaded_target))
        return
    target, _, draft = argument.partition(" ")
    open_pair(chat, target, draft.strip() or DRAFT)
    chat.tell(f"{model_name(chat.conversation.session.pair.loaded_target)} goes on with the conversation")


def draft(chat: Chat, argument: str) -> None:
    """/draft: show the draft, or go on with another one."""
    session = chat.conversation.session
    if argument:
        chat.show(session.change_draft(argument))
        session.speculating = True
    chat.tell(f"draft: {draft_name(session)}")


def spec(chat: Chat, argument: str) -> None:
    """/spec: whether to speculate."""
    session = chat.conversation.session
    if argument:
        if argument not in ("on", "off"):
            raise UsageError(f"/spec is 'on' or 'off', not '{argument}'")
        session.speculating = argument == "on"
    chat.tell(f"speculation is {'on' if session.speculating else 'off'}")


def open_pair(chat: Chat, target: str, draft: str) -> None:
    """Go on with another pair; the old one stays where that fails. Raises SpecgenError."""
    session = chat.open_session(target, draft)
    try:
        chat.show(session.open())
    except BaseException:
        session.close()
        raise
    chat.conversation.session.close()
    chat.conversation.move(session)


def model_name(model: LoadedModel) -> str:
    """A model as -m and -d take it, with the revision in use."""
    return str(ModelRef.at(model.id, model.revision))


def draft_name(session: SessionProtocol) -> str:
    """The draft as -d takes it."""
    draft = session.pair.loaded_draft
    return model_name(draft) if draft else session.pair.drafter_name
