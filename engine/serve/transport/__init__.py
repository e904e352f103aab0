"""The server below the application: uvicorn, with bounds on connections and on its end."""
