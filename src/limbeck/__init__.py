"""limbeck distils large models into small ones that ship."""
