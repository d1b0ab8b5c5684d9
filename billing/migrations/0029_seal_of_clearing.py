"""How far the comparison with Stripe was added up for good, and what both sides said of each subject by then."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [('billing', '0028_closings_and_cards')]

    operations = [
        migrations.CreateModel(
            name='ClearingSeal',
            fields=[
                ('clearing', models.CharField(choices=[('wallet', 'Wallet'), ('usage_revenue', 'Usage Revenue'), ('stripe_clearing', 'Stripe Clearing'), ('simulated_clearing', 'Simulated Clearing'), ('stripe_fees', 'Stripe Fees'), ('tax_payable', 'Tax Payable'), ('bank', 'Bank'), ('promotions', 'Promotions'), ('adjustments', 'Adjustments'), ('write_offs', 'Write Offs')], max_length=20, primary_key=True, serialize=False)),
                ('sealed_id', models.BigIntegerField(default=0)),
                ('sealed_at', models.DateTimeField()),
                ('next_id', models.BigIntegerField(default=0)),
                ('next_at', models.DateTimeField(null=True)),
                ('stripe_cents', models.BigIntegerField(default=0)),
                ('books_cents', models.BigIntegerField(default=0)),
                ('currencies', models.JSONField(default=dict)),
                ('foreign_types', models.JSONField(default=dict)),
            ],
        ),
        migrations.CreateModel(
            name='ClearingSubject',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('clearing', models.CharField(choices=[('wallet', 'Wallet'), ('usage_revenue', 'Usage Revenue'), ('stripe_clearing', 'Stripe Clearing'), ('simulated_clearing', 'Simulated Clearing'), ('stripe_fees', 'Stripe Fees'), ('tax_payable', 'Tax Payable'), ('bank', 'Bank'), ('promotions', 'Promotions'), ('adjustments', 'Adjustments'), ('write_offs', 'Write Offs')], max_length=20)),
                ('subject', models.CharField(max_length=255)),
                ('stripe_cents', models.BigIntegerField()),
                ('books_cents', models.BigIntegerField()),
                ('moved_at', models.DateTimeField()),
                ('foreign', models.BooleanField()),
                ('what', models.TextField()),
            ],
        ),
        migrations.AddIndex(
            model_name='balancetransaction',
            index=models.Index(fields=['posted_at'], name='balance_transaction_posted'),
        ),
        migrations.AddIndex(
            model_name='clearingsubject',
            index=models.Index(condition=models.Q(('stripe_cents', models.F('books_cents')), _negated=True), fields=['clearing'], name='clearing_subject_differs'),
        ),
        migrations.AddConstraint(
            model_name='clearingsubject',
            constraint=models.UniqueConstraint(fields=('subject', 'clearing'), name='clearing_subject_once'),
        ),
    ]
