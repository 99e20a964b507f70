"""vLLM's loading of general plugins.

Source: vllm-project/vllm, vllm/plugins/__init__.py at 01425553bdbe: every process calls
`load_general_plugins` once before it starts any work; each entry point of the group is loaded and
called without arguments, and must bear being called again.
"""

from importlib.metadata import entry_points

DEFAULT_PLUGINS_GROUP = "vllm.general_plugins"
plugins_loaded = False


def load_general_plugins():
    global plugins_loaded
    if plugins_loaded:
        return
    plugins_loaded = True
    for plugin in entry_points(group=DEFAULT_PLUGINS_GROUP):
        plugin.load()()
