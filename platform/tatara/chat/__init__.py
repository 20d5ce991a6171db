"""Conversations, the chat templates that turn them into text, and their tokens."""

from tatara.chat.conversation import Conversation, Message, read_conversations
from tatara.chat.renderer import Renderer
from tatara.chat.template import ChatTemplate, check_same, find_template

__all__ = ["ChatTemplate", "Conversation", "Message", "Renderer", "check_same", "find_template", "read_conversations"]
