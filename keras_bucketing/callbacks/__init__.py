"""The Keras callbacks, and what they read from Keras' hooks."""
