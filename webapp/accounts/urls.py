"""Signing in and out, one's own account, a forgotten password, and the operator's pages."""

from django.contrib.auth import views as auth_views
from django.contrib.auth.decorators import login_not_required
from django.urls import include, path
from django.views.generic import TemplateView

from webapp import parameters  # noqa: F401 - it registers the converter "key"
from webapp.accounts import views, views_operator

app_name = "accounts"

account = [
    path("", views.account, name="account"),
    path("email/", views.email_change, name="email"),
    path("sessions/end/", views.sessions_end_others, name="sessions-end"),
    path("sessions/<key:pk>/end/", views.session_end, name="session-end"),
]
forgotten = [
    path("", login_not_required(views.ForgottenView.as_view()), name="forgotten"),
    path(
        "sent/",
        login_not_required(TemplateView.as_view(template_name="accounts/forgotten_sent.html")),
        name="forgotten-sent",
    ),
]
operator = [
    path("", views_operator.people, name="people"),
    path("<key:pk>/", views_operator.person, name="person"),
    path("<key:pk>/deactivate/", views_operator.deactivate, name="deactivate"),
    path("<key:pk>/reactivate/", views_operator.reactivate, name="reactivate"),
    path("<key:pk>/reset-link/", views_operator.reset_link, name="reset-link"),
    path("<key:pk>/second-factor/", views_operator.second_factor_remove, name="second-factor-remove"),
]
urlpatterns = [
    path("sign-in/", login_not_required(views.SignInView.as_view()), name="sign-in"),
    path("sign-out/", auth_views.LogoutView.as_view(), name="sign-out"),
    path("account/", include(account)),
    path("forgotten/", include(forgotten)),
    path("reset/<uidb64>/<token>/", login_not_required(views.ResetView.as_view()), name="reset"),
    path("accounts/", include(operator)),
]
