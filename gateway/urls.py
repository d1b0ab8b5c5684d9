"""The road of /v1. A trailing slash is served like none, never redirected: clients repeat a redirected POST as GET."""

from django.urls import path

from gateway import account_views, openapi, views

urlpatterns = [
    path("v1/models", views.ModelListView.as_view()),
    path("v1/models/<path:model_id>", views.ModelView.as_view()),
    path("v1/chat/completions", views.ChatCompletionsView.as_view()),
    path("v1/completions", views.CompletionsView.as_view()),
    path("v1/embeddings", views.EmbeddingsView.as_view()),
    path("v1/generations/<str:generation_id>", account_views.GenerationView.as_view()),
    path("v1/key", account_views.KeyView.as_view()),
    path("v1/balance", account_views.BalanceView.as_view()),
    path("v1/usage", account_views.UsageView.as_view()),
    path("v1/openapi.json", openapi.OpenApiView.as_view()),
]
